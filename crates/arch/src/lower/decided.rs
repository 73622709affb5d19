//! Gates that ignore the image need not be asked again at every call: what they close is cut.

use crate::error::Result;
use crate::network::Network;
use crate::prune::Decision;
use gumbel_gates::GateKind;
use tch::Tensor;

impl Network {
    /// The network without the gates that ignore the image, if it has any: they are open if their
    /// margins are above `threshold`; without one all of them are open.
    pub(crate) fn without_decided_gates(&self, threshold: Option<f32>) -> Result<Option<Self>> {
        let mut decisions = Vec::with_capacity(self.spec().gate_count());
        for (block, gates) in self.spec().gate_sites() {
            let name = format!("{}.{}.logits", block.name, gates.site.name());
            let logits = self.tensors().get(&name).filter(|_| gates.kind == GateKind::Independent);
            let Some(logits) = logits else {
                decisions.extend(std::iter::repeat_n(Decision::Undecided, gates.count()));
                continue;
            };
            let logits: Tensor = logits.tensor.f_detach()?;
            let margins = Vec::<f32>::try_from(logits.f_select(1, 1)?.f_sub(&logits.f_select(1, 0)?)?)?;
            let open = |margin| threshold.is_none_or(|threshold| margin > threshold);
            decisions.extend(margins.into_iter().map(|m| if open(m) { Decision::Open } else { Decision::Closed }));
        }
        let decided = decisions.iter().any(|decision| *decision != Decision::Undecided);
        if decided { self.prune(&decisions).map(Some) } else { Ok(None) }
    }
}

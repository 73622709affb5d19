//! Gates that ignore the image need not be asked again at every call: what they close is cut.

use crate::error::{Error, Result};
use crate::network::Network;
use crate::prune::Decision;
use gumbel_gates::{GateKind, Policy};

impl Network {
    /// The margins (logit of open less that of closed) of gates that ignore the image, by gate; none
    /// for those that look at it.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn independent_margins(&self) -> Result<Vec<Option<f32>>> {
        let mut margins = Vec::with_capacity(self.spec().gate_count());
        for (block, gates) in self.spec().gate_sites() {
            let name = format!("{}.{}.logits", block.name, gates.site.name());
            let logits = self.tensors().get(&name).filter(|_| gates.kind == GateKind::Independent);
            let Some(logits) = logits else {
                margins.extend(std::iter::repeat_n(None, gates.count()));
                continue;
            };
            let logits = logits.tensor.f_detach()?;
            let own = Vec::<f32>::try_from(logits.f_select(1, 1)?.f_sub(&logits.f_select(1, 0)?)?)?;
            margins.extend(own.into_iter().map(Some));
        }
        Ok(margins)
    }

    /// The network without the gates that ignore the image, if it has any, decided as by `policy`:
    /// what an export of it computes.
    ///
    /// # Errors
    /// If the policy draws noise or ranks gates, or leaves nothing of the network open.
    pub fn decided(&self, policy: Policy) -> Result<Option<Self>> {
        let threshold = least_margin(policy)?;
        let decide = |margin: Option<f32>| match (margin, threshold) {
            (None, _) => Decision::Undecided,
            (Some(margin), Some(threshold)) if margin > threshold => Decision::Open,
            (Some(_), Some(_)) => Decision::Closed,
            (Some(_), None) => Decision::Open,
        };
        let decisions: Vec<Decision> = self.independent_margins()?.into_iter().map(decide).collect();
        let decided = decisions.iter().any(|decision| *decision != Decision::Undecided);
        if decided { self.prune(&decisions).map(Some) } else { Ok(None) }
    }
}

/// The margin that a gate is open above; none if all are open.
pub(super) fn least_margin(policy: Policy) -> Result<Option<f32>> {
    match policy {
        Policy::Argmax | Policy::StraightThrough { .. } => Ok(Some(0.0)),
        // σ(margin) > p
        Policy::Threshold(p) => Ok(Some((p / (1.0 - p)).ln() as f32)),
        Policy::AlwaysOpen => Ok(None),
        Policy::Sample { .. } | Policy::TopK(_) => Err(Error::NotScriptable { policy: policy.to_string() }),
    }
}

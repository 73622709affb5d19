//! Cutting what closed gates close out of a network while it learns.

use crate::config::{Config, Precision};
use crate::error::Result;
use crate::learn::average::Average;
use crate::learn::guard::NonFiniteGuard;
use crate::learn::optimizer::Optimizer;
use crate::learn::step::{Learner, training_macs};
use crate::measure::cut::decided;
use arch::{CutGates, Decision, Network};

impl Learner {
    /// Goes on with a smaller network, without the gates and what they close: one decision per
    /// gate, open or closed. It computes what this one computes; the optimizer's buffers and the
    /// guard go along, and an average begins with it. Gives what was cut, and the network as it
    /// was.
    ///
    /// # Errors
    /// If nothing would be left of the network; then nothing has changed.
    pub fn cut(&mut self, config: &Config, decisions: &[Decision]) -> Result<(CutGates, Network)> {
        let open = decisions.iter().map(|decision| *decision == Decision::Open).collect();
        let gates = CutGates { spec: self.network.spec().clone(), open };
        let (mut network, left) = self.network.prune_along(decisions, self.optimizer.buffers())?;
        let half = config.train.precision.half();
        network.compute_in(half);
        let mut optimizer = Optimizer::new(network.tensors(), 0, &config.optimizer, &config.gates)?;
        optimizer.go_on_from(&self.optimizer, &left)?;
        let scaled = config.train.precision == Precision::Float16;
        let guard = NonFiniteGuard::new(config.train.max_bad_steps, scaled, network.tensors(), &self.guard.state()?)?;
        if self.average.is_some() {
            self.average = Some(Average::of(&network, config.train.average_decay, half)?);
            self.updates = 0;
        }
        self.cut = decided(Some(&gates), network.device())?;
        self.macs_per_image = training_macs(config, &network, self.teacher.as_ref())?;
        (self.optimizer, self.guard) = (optimizer, guard);
        Ok((gates, std::mem::replace(&mut self.network, network)))
    }
}

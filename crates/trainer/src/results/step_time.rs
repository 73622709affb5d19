//! Where the time of training steps went.

/// Seconds per step, on average.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct StepTime {
    /// Waiting for the images of the batch.
    pub images: f64,
    /// Preparing them, the forward pass and the loss.
    pub forward: f64,
    /// The backward pass.
    pub backward: f64,
    /// Moving the parameters and keeping count.
    pub update: f64,
    /// All of it, and whatever else happened.
    pub total: f64,
}

impl StepTime {
    /// Adds another time, part by part.
    pub(crate) fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.forward += other.forward;
        self.backward += other.backward;
        self.update += other.update;
        self.total += other.total;
    }

    /// The parts as shares of the whole, in words.
    pub fn shares(&self) -> String {
        let share = |part: f64| format!("{:.0}%", 100.0 * part / self.total.max(1e-12));
        format!(
            "waiting for images {}, forward {}, backward {}, update {}, rest {}",
            share(self.images),
            share(self.forward),
            share(self.backward),
            share(self.update),
            share(self.rest())
        )
    }

    /// What none of the parts explains: logs, checkpoints and, on a GPU, the time it had nothing to
    /// do.
    pub fn rest(&self) -> f64 {
        (self.total - self.images - self.forward - self.backward - self.update).max(0.0)
    }
}

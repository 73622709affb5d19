//! What the schedules of a run say for one step.

/// The scheduled values of one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scheduled {
    /// Learning rate of the network's weights.
    pub learning_rate: f64,
    /// One target per gate.
    pub targets: Vec<f64>,
    /// Their mean, each gate counting what it weighs; `None` without gates.
    pub target: Option<f64>,
    /// Weight of the activation loss, the papers' lossfact.
    pub loss_factor: f64,
    /// Weight of the term that drives gates towards a decision.
    pub polarization: f64,
    /// Temperature of the softmax behind the gates' gradient.
    pub temperature: f64,
    /// Whether gates no longer learn.
    pub frozen: bool,
}

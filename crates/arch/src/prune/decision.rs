//! What is known about a gate.

/// What is known about a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is open, whatever the input.
    Open,
    /// It is closed, whatever the input.
    Closed,
    /// It depends on the input.
    Undecided,
}

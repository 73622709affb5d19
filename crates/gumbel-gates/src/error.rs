//! What can go wrong with gates.

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensors(#[from] torch_ext::Error),
    /// A tensor has another shape than the operation needs.
    #[error("{what}: expected shape {expected}, found {found:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape in words, such as `[N, n, 2]`.
        expected: &'static str,
        /// Its shape.
        found: Vec<i64>,
    },
    /// The number of targets or weights is not the number of gates.
    #[error("{values} values for {gates} gates; give one activation target, and one weight if any, per gate")]
    ValueCount {
        /// Number of values.
        values: usize,
        /// Number of gates.
        gates: usize,
    },
    /// There is no gate to compute an activation of.
    #[error("the network has no gates, so there is no activation to pull towards a target")]
    NoGates,
    /// No policy is written like this.
    #[error(
        "unknown policy '{0}'; expected argmax, always-open, sample, threshold=P with P from 0 to 1, \
         or topk=K; also sample=TEMPERATURE[:SEED] or straight-through[=TEMPERATURE], the temperature \
         above 0"
    )]
    UnknownPolicy(String),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

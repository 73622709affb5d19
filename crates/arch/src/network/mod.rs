//! A network's tensors, what runs them, and what fills them.

mod block;
mod conv;
mod net;
mod norms;
mod weights;

pub(crate) use block::{compose, positions};
pub use net::{CLASSIFIER_GROUP, Execution, Mode, Network, Observe, Output, Pass};
pub use weights::{Classifier, Loaded};

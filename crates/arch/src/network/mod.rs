//! A network's tensors, the forward pass through them, and what fills and judges them.

mod block;
mod conv;
mod gates;
mod net;
mod norms;
mod pass;
mod select;
mod weights;

pub use net::{CLASSIFIER_GROUP, Network};
pub(crate) use pass::Unobserved;
pub use pass::{Execution, Mode, Observer, Output, Pass};
pub(crate) use select::{copy, positions};
pub use weights::{Classifier, FreshClassifier, Loaded};

//! Those who are told what happens in a run.

pub(crate) mod gate_report;
mod metrics_file;
mod progress;
mod tensorboard;

pub use metrics_file::MetricsFile;
pub use progress::{Progress, duration};
pub use tensorboard::TensorBoard;

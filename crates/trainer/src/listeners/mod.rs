//! Those who are told what happens in a run.

mod metrics_file;
mod progress;
mod tensorboard;

pub use metrics_file::MetricsFile;
pub use progress::{Progress, duration};
pub use tensorboard::{SiteName, TensorBoard};

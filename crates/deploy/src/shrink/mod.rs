//! From weights and a budget to a smaller network that was run where it will run, in stages.

mod asked;
mod plan;
mod recipe;
mod results;
mod stages;

pub use asked::{Asked, Budget, Training};
pub use plan::{Plan, fingerprint};
pub use recipe::config;
pub use results::{BlockTime, Learned, Prospect, Shrunk, Side, Spread, seconds_of};
pub use stages::{Dense, Shrink, Shrinking};

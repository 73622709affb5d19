//! From weights and a budget to a smaller network that was run where it will run, in stages.

mod asked;
mod dense;
mod files;
mod learn;
mod plan;
mod recipe;
mod results;
mod shrinking;
mod stages;
mod table;

pub use asked::{Asked, Budget, Training};
pub use plan::{PLAN, Plan, fingerprint};
pub use recipe::config;
pub use results::{BlockTime, Learned, Prospect, Shrunk, Side, Spread, seconds_of};
pub use shrinking::{Dense, Shrink, Shrinking};

//! Taking decided gates away, with everything they closed, and padding what is left to widths that
//! devices compute well.

mod cut;
mod cut_gates;
mod decision;
mod least_squares;
mod pad;
mod repair;
mod tensors;

pub use cut_gates::CutGates;
pub use decision::Decision;
pub use repair::RepairedBlock;

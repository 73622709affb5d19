//! Taking decided gates away, with everything they closed, and padding what is left to widths that
//! devices compute well.

mod cut;
mod decision;
mod pad;
mod tensors;

pub use decision::Decision;

//! A network in the forms that other programs run.

mod source;
mod torchscript;

pub use source::ScriptOptions;

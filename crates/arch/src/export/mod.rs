//! A network in the forms that other programs run.

mod torchscript;

pub use torchscript::ScriptOptions;

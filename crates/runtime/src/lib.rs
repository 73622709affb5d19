//! Networks where they will run: this program's own libtorch, TorchScript, ONNX Runtime, OpenVINO.
//!
//! A [`Model`] is a network in one of them: it takes images and gives logits. To compare times,
//! each runtime gets a process of its own ([`Worker`], which answers through [`serve()`]), for
//! their threads wait for each other in different ways; [`in_turn`] then times all of them in turn,
//! so that a machine that changes its pace changes it for all.

mod array;
mod error;
mod installed;
mod kind;
pub mod measure;
mod models;
mod protocol;
mod serve;
mod turns;
mod worker;

pub use array::{Array, Values};
pub use error::{Error, Result};
pub use kind::Runtime;
pub use models::{Eager, Model, OnnxRuntime, TorchScript};
pub use serve::serve;
pub use turns::{Subject, in_turn};
pub use worker::Worker;

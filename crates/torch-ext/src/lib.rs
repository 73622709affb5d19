//! Thin, safe wrappers over what libtorch has and tch does not. No policy and no words of the
//! project above it.
//!
//! - [`Tensors`]: named parameters and buffers in a fixed order, as `torch.nn.Module.state_dict()`
//!   keeps them.
//! - [`BatchNorm`], [`Linear`]: layers with PyTorch's names and initial values.
//! - [`scale`], [`scaled_sum`]: products, activations, sums and means in one pass over memory.
//! - [`fused_sgd`], [`fused_adamw`]: one call that updates all parameters.
//! - [`norm`], [`lerp`]: the same for the size of gradients and for averages.
//! - [`Autocast`], [`allow_tf32`]: precision of operations.
//! - [`uniform`], [`normal`]: random values that are a function of an explicit seed.
//! - [`Script`]: TorchScript modules, compiled from their source.
//! - [`peak_memory`]: how much memory was in use.
//! - [`cuda_is_available`], [`to_device`]: loads libtorch's CUDA libraries only when somebody asks
//!   for a GPU; copies to it that the host does not wait for.

mod autocast;
mod cuda;
mod error;
mod fused;
mod layers;
mod memory;
mod optimizer;
mod random;
mod script;
mod tensors;

pub use autocast::{Autocast, Half, allow_tf32};
pub use cuda::{cuda_fault, cuda_is_available, to_device};
pub use error::{Error, Result};
pub use fused::{Pointwise, scale, scaled_sum};
pub use layers::{BatchNorm, Linear, Statistics};
pub use memory::{peak_memory, peak_tensor_memory, restart_peak_memory};
pub use optimizer::{AdamWStep, Gradients, SgdStep, fused_adamw, fused_sgd, lerp, norm};
pub use random::{derive_seed, normal, uniform};
pub use script::{Attribute, Script};
pub use tensors::{Entry, Init, Path, Role, Tensors};

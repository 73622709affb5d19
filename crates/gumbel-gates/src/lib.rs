//! Gumbel gates: binary choices inside a network that learn, by gradient descent, whether to be
//! open or closed.
//!
//! A gate is a two-way choice with logits (closed, open). While training it is sampled with the
//! Gumbel-max trick and its gradient is that of the softmax (straight-through, [`sampling`]); at
//! inference a [`Policy`] decides. [`Gates`] holds the gates of one site and makes their logits,
//! from parameters of their own or from the input. [`GateValues`] are the decisions of one forward
//! pass, and [`loss`] pulls them towards a compute target.
//!
//! The method is "Channel selection using Gumbel Softmax" (Herrmann, Bowen, Zabih; ECCV 2020, arXiv
//! 1812.04180) and "Convolutional networks with adaptive inference graphs" (Veit, Belongie; ECCV
//! 2018). Tensors in, tensors out: nothing here knows of convolutions or data sets.
//!
//! ```
//! use gumbel_gates::Policy;
//! use tch::{Kind, Tensor};
//!
//! // The logits (closed, open) of two gates for one image: [N, n, 2].
//! let logits = Tensor::from_slice(&[0.1f32, 2.0, 0.5, 0.0]).view([1, 2, 2]);
//! let logits = logits.set_requires_grad(true);
//! let gate_values = Policy::Sample { temperature: 1.0, seed: 7 }.decide(&logits, 0)?;
//! let values: Vec<f32> = Vec::try_from(gate_values.detach().view([-1]))?;
//! assert!(values.iter().all(|&value| value == 0.0 || value == 1.0));
//!
//! // The choice is hard, and yet it has a gradient: the softmax's.
//! gate_values.sum(Kind::Float).backward();
//! let gradient = logits.grad();
//! assert!(gradient.defined() && gradient.abs().min().double_value(&[]) > 0.0);
//! # Ok::<(), gumbel_gates::Error>(())
//! ```

mod error;
mod gate_values;
mod gates;
pub mod loss;
mod policy;
pub mod sampling;

pub use error::{Error, Result};
pub use gate_values::GateValues;
pub use gates::{GATE_GROUP, GateInput, GateKind, Gates};
pub use policy::Policy;

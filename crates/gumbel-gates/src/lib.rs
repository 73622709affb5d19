//! Gumbel gates: binary choices inside a network that learn, by gradient descent, whether to be open or closed.
//!
//! A gate is a two-way choice with logits (closed, open). While training it is sampled with the Gumbel-max trick and its
//! gradient is that of the softmax (straight-through, [`sampling`]); at inference a [`Policy`] decides. [`Gates`] holds the
//! gates of one site and makes their logits, from parameters of their own or from the input. [`Openings`] are the decisions of
//! one forward pass, and [`loss`] pulls them towards a compute target.
//!
//! The method is "Channel selection using Gumbel Softmax" (Herrmann, Bowen, Zabih; ECCV 2020, arXiv 1812.04180) and
//! "Convolutional networks with adaptive inference graphs" (Veit, Belongie; ECCV 2018). Tensors in, tensors out: nothing here
//! knows of convolutions or data sets.

mod error;
mod gates;
pub mod loss;
mod openings;
mod policy;
pub mod sampling;

pub use error::{Error, Result};
pub use gates::{GATE_GROUP, GateInput, GateKind, Gates};
pub use openings::Openings;
pub use policy::Policy;

//! A network as a list of operations, which every format for other programs prints.

mod decided;
mod fold;
mod graph;
mod network;

pub(crate) use graph::{Graph, Node, Operation, Part};
pub(crate) use network::Lowering;

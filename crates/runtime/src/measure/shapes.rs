//! The blocks of a network, those of one shape together.

use crate::error::Result;
use arch::{BlockSpec, Cost, NetSpec};

/// Blocks that differ in their names alone, on features of the same extent.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// The first of them, without gates.
    pub block: BlockSpec,
    /// The names of all.
    pub names: Vec<String>,
    /// Side of the features that it reads, in pixels.
    pub extent: usize,
    /// MACs of one of them.
    pub macs: u64,
}

/// The shapes of a network's blocks for square images, in the order they first occur.
pub(super) fn shapes(spec: &NetSpec, image_size: usize) -> Result<Vec<Shape>> {
    let cost = Cost::of(spec, image_size, image_size)?;
    let stem = spec.stem.conv.output_extent(image_size);
    let pooled = stem.and_then(|extent| match &spec.stem.pool {
        Some(pool) => pool.output_extent(extent),
        None => Some(extent),
    });
    let mut extent = pooled.unwrap_or(1);
    let mut shapes: Vec<Shape> = Vec::new();
    for (block, cost) in spec.blocks.iter().zip(&cost.blocks) {
        let nameless = BlockSpec { name: String::new(), gates: Vec::new(), ..block.clone() };
        let same = |shape: &&mut Shape| {
            shape.extent == extent && BlockSpec { name: String::new(), ..shape.block.clone() } == nameless
        };
        match shapes.iter_mut().find(same) {
            Some(shape) => shape.names.push(block.name.clone()),
            None => shapes.push(Shape {
                block: BlockSpec { name: block.name.clone(), ..nameless },
                names: vec![block.name.clone()],
                extent,
                macs: cost.macs(),
            }),
        }
        extent = cost.extent.0;
    }
    Ok(shapes)
}

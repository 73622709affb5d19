//! The cost of forward passes by what their gates decided.

use super::macs::Cost;
use crate::error::Result;
use gumbel_gates::GateValues;
use tch::{Device, Kind, Tensor};

/// Counts the MACs of forward passes from their gate values, on their device and differentiably.
#[derive(Debug)]
pub struct Meter {
    /// Channels behind each gate: `[G]` in float64.
    sizes: Tensor,
    /// For each gate the width it belongs to: `[G]`.
    width_of_gate: Tensor,
    /// Channels of each width that are always open: `[W]` in float64.
    fixed: Tensor,
    /// The widths that are multiplied in each term: three times `[T]`.
    factors: [Tensor; 3],
    /// `[T]` in float64.
    coefficients: Tensor,
    /// For each term its block: `[T]`.
    block_of_term: Tensor,
    /// MACs of each block with all gates open: [number of blocks] in float64.
    dense: Tensor,
    /// What is spent outside the blocks, the gates' own included.
    outside: f64,
    /// The network without gates.
    network: f64,
    /// What is spent whatever the gates decide.
    constant: f64,
    /// What the gates decide about.
    gated: f64,
}

impl Meter {
    /// A meter for gate values on `device`.
    ///
    /// # Errors
    /// If the device refuses the tensors.
    pub fn new(cost: &Cost, device: Device) -> Result<Self> {
        let doubles = |values: Vec<u64>| -> Result<Tensor> {
            let values: Vec<f64> = values.into_iter().map(|value| value as f64).collect();
            Ok(Tensor::f_from_slice(&values)?.f_to_device(device)?)
        };
        let positions = |values: Vec<usize>| -> Result<Tensor> {
            let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
            Ok(Tensor::f_from_slice(&values)?.f_to_device(device)?)
        };
        let widths = || cost.widths.iter().enumerate();
        let factor = |position: usize| positions(cost.terms.iter().map(|term| term.factors[position]).collect());
        Ok(Self {
            sizes: doubles(widths().flat_map(|(_, width)| width.sizes.iter().copied()).collect())?,
            width_of_gate: positions(
                widths().flat_map(|(number, width)| std::iter::repeat_n(number, width.sizes.len())).collect(),
            )?,
            fixed: doubles(widths().map(|(_, width)| width.fixed).collect())?,
            factors: [factor(0)?, factor(1)?, factor(2)?],
            coefficients: doubles(cost.terms.iter().map(|term| term.coefficient).collect())?,
            block_of_term: positions(cost.terms.iter().map(|term| term.block).collect())?,
            dense: doubles(cost.blocks.iter().map(|block| block.macs()).collect())?,
            outside: cost.outside as f64 + cost.gates as f64,
            network: cost.dense as f64,
            constant: cost.constant() as f64,
            gated: cost.gated() as f64,
        })
    }

    /// MACs used in each block per image, gates left out: [N, number of blocks] in float64,
    /// differentiable with respect to the gate values.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn per_block(&self, gate_values: &GateValues) -> Result<Tensor> {
        let open = gate_values.joined()?.f_to_kind(Kind::Double)?.f_mul(&self.sizes)?;
        let batch = open.size2()?.0;
        let fixed = self.fixed.f_unsqueeze(0)?.f_expand([batch, -1], false)?;
        let widths = fixed.f_index_add(1, &self.width_of_gate, &open)?;
        let mut macs = self.coefficients.f_unsqueeze(0)?;
        for factor in &self.factors {
            macs = macs.f_mul(&widths.f_index_select(1, factor)?)?;
        }
        let none = macs.f_new_zeros([batch, self.dense.size1()?], (Kind::Double, macs.device()))?;
        Ok(none.f_index_add(1, &self.block_of_term, &macs)?)
    }

    /// MACs of each block with all gates open: [number of blocks] in float64.
    pub fn dense(&self) -> &Tensor {
        &self.dense
    }

    /// Number of gates.
    ///
    /// # Errors
    /// If libtorch refuses to say.
    pub fn gates(&self) -> Result<i64> {
        Ok(self.sizes.size1()?)
    }

    /// MACs spent outside the blocks and by the gates themselves.
    pub fn outside(&self) -> f64 {
        self.outside
    }

    /// MACs used per image, gates included: `[N]` in float64, differentiable with respect to the
    /// gate values.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn used(&self, gate_values: &GateValues) -> Result<Tensor> {
        let blocks = self.per_block(gate_values)?;
        Ok(blocks.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.f_add_scalar(self.outside)?)
    }

    /// The MACs used on average as a share of the network's without gates, a scalar tensor in
    /// float32.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn share(&self, gate_values: &GateValues) -> Result<Tensor> {
        let mean = self.used(gate_values)?.f_mean(Kind::Double)?;
        Ok(mean.f_div_scalar(self.network)?.f_to_kind(Kind::Float)?)
    }

    /// The share of the gated MACs used on average, the a of ECCV 2020 for filter gates: (MACs −
    /// constant) / (possible − constant), a scalar tensor in float32.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn activation(&self, gate_values: &GateValues) -> Result<Tensor> {
        let mean = self.used(gate_values)?.f_mean(Kind::Double)?;
        Ok(mean.f_sub_scalar(self.constant)?.f_div_scalar(self.gated)?.f_to_kind(Kind::Float)?)
    }
}

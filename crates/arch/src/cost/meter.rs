//! The cost of forward passes by what their gates decided.

use super::spending::{Amount, Grid, Spending, Term};
use crate::error::Result;
use gumbel_gates::GateValues;
use tch::{Device, Kind, Tensor};

/// Counts what forward passes spend from their gate values, on their device and differentiably:
/// MACs, or what else a [`Spending`] counts.
#[derive(Debug)]
pub struct Meter {
    /// Channels behind each gate: `[G]` in float64.
    sizes: Tensor,
    /// For each gate the width it belongs to: `[G]`.
    width_of_gate: Tensor,
    /// Channels of each width that are always open: `[W]` in float64.
    fixed: Tensor,
    products: Products,
    grids: Option<Grids>,
    /// For each term, the products first, its block and the width of its layer gate: `[T]`.
    block_of_term: Tensor,
    layer_of_term: Tensor,
    branches: Option<Branches>,
    /// What each block spends with all gates open: [number of blocks] in float64.
    dense: Tensor,
    /// What is spent outside the blocks, the gates' own included.
    outside: f64,
    /// The network without gates.
    network: f64,
    /// What is spent whatever the gates decide.
    least: f64,
    /// What the gates decide about.
    gated: f64,
}

/// How branches fade whose widths are less than their terms know.
#[derive(Debug)]
struct Branches {
    /// For each width the least of it that is known: `[W]` in float64.
    least: Tensor,
    /// The widths of each term's branch, those that have fewer filled with one that is 1: several
    /// times `[T]`.
    widths: Vec<Tensor>,
}

impl Branches {
    fn new(spending: &Spending, terms: &[&Term], device: Device) -> Result<Option<Self>> {
        let of_term = |term: &Term| if term.in_branch { spending.least[term.block].as_slice() } else { &[] };
        let most = terms.iter().map(|term| of_term(term).len()).max().unwrap_or_default();
        if most == 0 {
            return Ok(None);
        }
        let mut least = vec![1.0; spending.widths.len()];
        for &(width, known) in spending.least.iter().flatten() {
            least[width] = known;
        }
        let column = |at: usize| {
            positions(terms.iter().map(|term| of_term(term).get(at).map_or(0, |(width, _)| *width)), device)
        };
        Ok(Some(Self { least: doubles(least, device)?, widths: (0..most).map(column).collect::<Result<_>>()? }))
    }

    /// What is left of each term, for widths [N, W]: [N, T].
    fn left(&self, widths: &Tensor) -> Result<Tensor> {
        let of_width = widths.f_div(&self.least)?.f_clamp_max(1.0)?;
        let mut left = of_width.f_index_select(1, &self.widths[0])?;
        for own in &self.widths[1..] {
            left = left.f_mul(&of_width.f_index_select(1, own)?)?;
        }
        Ok(left)
    }
}

/// Terms that are products of widths.
#[derive(Debug)]
struct Products {
    /// `[T]` in float64.
    coefficients: Tensor,
    /// The widths that are multiplied: twice `[T]`.
    factors: [Tensor; 2],
}

/// Terms that lie between the values of grids.
#[derive(Debug)]
struct Grids {
    /// The widths they are over.
    axes: [Axis; 2],
    /// Values of all grids, each row by row and multiplied by its sign, in float64.
    values: Tensor,
    /// Where the values of each grid begin: `[T]`.
    first: Tensor,
    /// Columns of each grid: `[T]`.
    columns: Tensor,
}

/// One of the two widths of grids.
#[derive(Debug)]
struct Axis {
    /// `[T]`
    factors: Tensor,
    /// Known widths: [T, levels] in float64; shorter ones are filled with infinity.
    levels: Tensor,
    /// Those between the first and the last, where a new cell begins.
    inner: Tensor,
}

impl Axis {
    fn new(grids: &[&Grid], at: usize, device: Device) -> Result<Self> {
        let longest = grids.iter().map(|grid| grid.levels[at].len()).max().unwrap_or_default();
        let (mut levels, mut inner) = (Vec::new(), Vec::new());
        for grid in grids {
            let own = &grid.levels[at];
            let filled = |from: &[f64], length: usize| {
                let mut filled = from.to_vec();
                filled.resize(length, f64::INFINITY);
                filled
            };
            levels.extend(filled(own, longest));
            inner.extend(filled(&own[1..own.len() - 1], longest - 2));
        }
        let matrix = |values: &[f64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view([grids.len() as i64, -1])?.f_to_device(device)?)
        };
        Ok(Self {
            factors: positions(grids.iter().map(|grid| grid.factors[at]), device)?,
            levels: matrix(&levels)?,
            inner: if longest > 2 { matrix(&inner)? } else { matrix(&vec![f64::INFINITY; grids.len()])? },
        })
    }

    /// The cell of each grid that widths [N, W] lie in, and how far in it: twice [N, T].
    fn place(&self, widths: &Tensor) -> Result<(Tensor, Tensor)> {
        let own = widths.f_index_select(1, &self.factors)?;
        let begun = own.f_detach()?.f_unsqueeze(2)?.f_ge_tensor(&self.inner.f_unsqueeze(0)?)?;
        let cell = begun.f_sum_dim_intlist([2i64].as_slice(), false, Kind::Int64)?;
        let level = |cell: &Tensor| -> Result<Tensor> {
            let all = self.levels.f_unsqueeze(0)?.f_expand([cell.size2()?.0, -1, -1], false)?;
            Ok(all.f_gather(2, &cell.f_unsqueeze(2)?, false)?.f_squeeze_dim(2)?)
        };
        let (low, high) = (level(&cell)?, level(&cell.f_add_scalar(1)?)?);
        let share = own.f_sub(&low)?.f_div(&high.f_sub(&low)?)?.f_clamp_min(0.0)?;
        Ok((cell, share))
    }
}

impl Grids {
    fn new(signed: &[(f64, &Grid)], device: Device) -> Result<Option<Self>> {
        if signed.is_empty() {
            return Ok(None);
        }
        let grids: Vec<&Grid> = signed.iter().map(|(_, grid)| *grid).collect();
        let values = signed.iter().flat_map(|(sign, grid)| grid.values.iter().map(move |value| sign * value));
        let first = grids.iter().scan(0, |next, grid| Some(std::mem::replace(next, *next + grid.values.len())));
        Ok(Some(Self {
            axes: [Axis::new(&grids, 0, device)?, Axis::new(&grids, 1, device)?],
            values: doubles(values, device)?,
            first: positions(first, device)?,
            columns: positions(grids.iter().map(|grid| grid.levels[1].len()), device)?,
        }))
    }

    /// The value of each grid for widths [N, W]: [N, T].
    fn at(&self, widths: &Tensor) -> Result<Tensor> {
        let (row, down) = self.axes[0].place(widths)?;
        let (column, right) = self.axes[1].place(widths)?;
        let first = row.f_mul(&self.columns)?.f_add(&self.first)?.f_add(&column)?;
        let value = |at: &Tensor| self.values.f_take(at);
        let along = |first: &Tensor| -> Result<Tensor> {
            let [left, next] = [value(first)?, value(&first.f_add_scalar(1)?)?];
            Ok(left.f_add(&next.f_sub(&left)?.f_mul(&right)?)?)
        };
        let (above, below) = (along(&first)?, along(&first.f_add(&self.columns)?)?);
        Ok(above.f_add(&below.f_sub(&above)?.f_mul(&down)?)?)
    }
}

fn doubles(values: impl IntoIterator<Item = f64>, device: Device) -> Result<Tensor> {
    let values: Vec<f64> = values.into_iter().collect();
    Ok(Tensor::f_from_slice(&values)?.f_to_device(device)?)
}

fn positions(values: impl IntoIterator<Item = usize>, device: Device) -> Result<Tensor> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    Ok(Tensor::f_from_slice(&values)?.f_to_device(device)?)
}

impl Meter {
    /// A meter for gate values on `device`.
    ///
    /// # Errors
    /// If the device refuses the tensors.
    pub fn new(spending: &Spending, device: Device) -> Result<Self> {
        let widths = || spending.widths.iter().enumerate();
        let (mut products, mut grids) = (Vec::new(), Vec::new());
        for term in &spending.terms {
            match &term.amount {
                Amount::Product { coefficient, factors } => products.push((term, *coefficient, *factors)),
                Amount::Grid { sign, grid } => grids.push((term, (*sign, grid))),
            }
        }
        let factor = |at: usize| positions(products.iter().map(|(.., factors)| factors[at]), device);
        let terms: Vec<&Term> =
            products.iter().map(|(term, ..)| *term).chain(grids.iter().map(|(term, _)| *term)).collect();
        Ok(Self {
            sizes: doubles(widths().flat_map(|(_, width)| width.sizes.iter().map(|&size| size as f64)), device)?,
            width_of_gate: positions(
                widths().flat_map(|(number, width)| std::iter::repeat_n(number, width.sizes.len())),
                device,
            )?,
            fixed: doubles(widths().map(|(_, width)| width.fixed as f64), device)?,
            products: Products {
                coefficients: doubles(products.iter().map(|(_, coefficient, _)| *coefficient), device)?,
                factors: [factor(0)?, factor(1)?],
            },
            grids: Grids::new(&grids.iter().map(|(_, signed)| *signed).collect::<Vec<_>>(), device)?,
            block_of_term: positions(terms.iter().map(|term| term.block), device)?,
            layer_of_term: positions(terms.iter().map(|term| term.layer), device)?,
            branches: Branches::new(spending, &terms, device)?,
            dense: doubles(spending.blocks.iter().copied(), device)?,
            outside: spending.outside + spending.gates,
            network: spending.dense(),
            least: spending.least(),
            gated: spending.gated(),
        })
    }

    /// What is used in each block per image, gates left out: [N, number of blocks] in float64,
    /// differentiable with respect to the gate values.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn per_block(&self, gate_values: &GateValues) -> Result<Tensor> {
        let open = gate_values.joined()?.f_to_kind(Kind::Double)?.f_mul(&self.sizes)?;
        let batch = open.size2()?.0;
        let fixed = self.fixed.f_unsqueeze(0)?.f_expand([batch, -1], false)?;
        let widths = fixed.f_index_add(1, &self.width_of_gate, &open)?;
        let mut used = self.products.coefficients.f_unsqueeze(0)?.f_expand([batch, -1], false)?;
        for factor in &self.products.factors {
            used = used.f_mul(&widths.f_index_select(1, factor)?)?;
        }
        if let Some(grids) = &self.grids {
            used = Tensor::f_cat(&[used, grids.at(&widths)?], 1)?;
        }
        let mut used = used.f_mul(&widths.f_index_select(1, &self.layer_of_term)?)?;
        if let Some(branches) = &self.branches {
            used = used.f_mul(&branches.left(&widths)?)?;
        }
        let none = used.f_new_zeros([batch, self.dense.size1()?], (Kind::Double, used.device()))?;
        Ok(none.f_index_add(1, &self.block_of_term, &used)?)
    }

    /// What each block spends with all gates open: [number of blocks] in float64.
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

    /// What is spent outside the blocks and by the gates themselves.
    pub fn outside(&self) -> f64 {
        self.outside
    }

    /// What is used per image, gates included: `[N]` in float64, differentiable with respect to the
    /// gate values.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn used(&self, gate_values: &GateValues) -> Result<Tensor> {
        let blocks = self.per_block(gate_values)?;
        Ok(blocks.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.f_add_scalar(self.outside)?)
    }

    /// What is used on average as a share of the network's without gates, a scalar tensor in
    /// float32.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn share(&self, gate_values: &GateValues) -> Result<Tensor> {
        let mean = self.used(gate_values)?.f_mean(Kind::Double)?;
        Ok(mean.f_div_scalar(self.network)?.f_to_kind(Kind::Float)?)
    }

    /// The share used on average of what gates decide about, the a of ECCV 2020 for filter gates:
    /// (used − least) / (most − least), a scalar tensor in float32.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn activation(&self, gate_values: &GateValues) -> Result<Tensor> {
        let mean = self.used(gate_values)?.f_mean(Kind::Double)?;
        Ok(mean.f_sub_scalar(self.least)?.f_div_scalar(self.gated)?.f_to_kind(Kind::Float)?)
    }
}

//! Gates that decide at random, for networks that were not trained.

use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::{Allocation, Cost, Meter, Network};
use gumbel_gates::{GateKind, GateValues};
use tch::{Device, Kind, Tensor};
use torch_ext::uniform;

/// How many of them are open.
pub(super) enum Share {
    /// This share of the gates.
    Gates(f64),
    /// As many as leave this share of the dense MACs.
    Macs(f64),
}

/// Opens a share of the gates, which `seed` chooses; with `align` multiples of so many channels,
/// for the same MACs.
pub(super) fn decide(network: &Network, cost: &Cost, share: &Share, align: Option<usize>, seed: u64) -> Result<()> {
    let count = network.spec().gate_count();
    if count == 0 {
        return Ok(());
    }
    let order: Vec<f64> = Vec::try_from(uniform(&[count as i64], seed)?.to_kind(Kind::Double))?;
    let mut sorted = order.clone();
    sorted.sort_by(f64::total_cmp);
    let meter = Meter::new(&cost.spending(), Device::Cpu)?;
    let gate_values = |open: usize| -> Vec<bool> {
        // So many gates that come first in the order.
        let limit = if open == 0 { f64::MIN } else { sorted[open - 1] };
        order.iter().map(|&place| place <= limit).collect()
    };
    let macs = |open: usize| -> Result<f64> {
        let open: Vec<f32> = gate_values(open).into_iter().map(f32::from).collect();
        let all = GateValues::new(vec![Tensor::from_slice(&open).view([1, -1])])?;
        Ok(meter.used(&all)?.double_value(&[0]) / cost.dense as f64)
    };
    let open = match *share {
        Share::Gates(share) => (share * count as f64).round() as usize,
        Share::Macs(wanted) => {
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = (low + high) / 2;
                if macs(middle)? < wanted { low = middle + 1 } else { high = middle }
            }
            low
        }
    };
    let mut decisions = gate_values(open);
    if let Some(align) = align {
        let scores: Vec<f64> = order.iter().map(|place| 1.0 - place).collect();
        let spending = cost.spending();
        let budget = spending.of_gates(&decisions)?;
        decisions = Allocation { spending: &spending, decided: &decisions, scores: &scores, align, budget }.open()?;
    }
    let mut left = decisions.as_slice();
    for (block, gates) in network.spec().gate_sites() {
        if gates.kind != GateKind::Independent {
            bail!(Usage("random decisions are for gates that ignore the image".into()));
        }
        let (own, rest) = left.split_at(gates.count());
        left = rest;
        let logits: Vec<f32> = own.iter().flat_map(|&open| if open { [0.0, 1.0] } else { [1.0, 0.0] }).collect();
        let name = format!("{}.{}.logits", block.name, gates.site.name());
        if let Some(entry) = network.tensors().get(&name) {
            tch::no_grad(|| entry.tensor.shallow_clone().f_copy_(&Tensor::from_slice(&logits).view([-1, 2])))?;
        }
    }
    Ok(())
}

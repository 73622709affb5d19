//! Where the time of a pruned network goes, layer by layer, beside its MACs.

use crate::table::{percent, table};
use arch::{ConvCost, Cost};

/// A runtime's convolutions work on blocks of so many channels.
const CHANNELS: usize = 8;

/// Below so many multiply-accumulates for each value that is read or written, memory is what a
/// convolution waits for (docs/results.md).
const MACS_PER_VALUE: u64 = 50;

/// A layer is named if its share of time is larger than that of MACs by this, and it took this share
/// of the dense network's time.
const NAMED: (f64, f64) = (0.15, 0.01);

/// One convolution before and after pruning.
struct Layer {
    before: ConvCost,
    after: ConvCost,
    /// Seconds.
    time: [f64; 2],
}

/// The layers of a network and what else takes time.
pub(super) struct Layers {
    kept: Vec<Layer>,
    /// Seconds of everything before and after.
    total: [f64; 2],
    /// Seconds of what is no convolution: sums, copies of channels, other layouts.
    others: [f64; 2],
}

impl Layers {
    /// From costs and what each operation took, by name, dense and pruned.
    pub(super) fn of(dense: &Cost, pruned: &Cost, before: &[(String, f64)], after: &[(String, f64)]) -> Self {
        let total = [before, after].map(|operations| operations.iter().map(|(_, seconds)| seconds).sum::<f64>());
        let of_convs = |cost: &Cost, operations: &[(String, f64)]| -> f64 {
            cost.convs.iter().map(|conv| seconds_of(conv, operations)).sum()
        };
        let others = [total[0] - of_convs(dense, before), total[1] - of_convs(pruned, after)];
        let layer = |conv: &ConvCost| {
            let own = dense.convs.iter().find(|own| own.name == conv.name)?;
            let time = [seconds_of(own, before), seconds_of(conv, after)];
            Some(Layer { before: own.clone(), after: conv.clone(), time })
        };
        Self { kept: pruned.convs.iter().filter_map(layer).collect(), total, others }
    }

    pub(super) fn text(&self) -> String {
        let heading = ["layer", "reads", "filters", "MACs", "time", "why"].map(str::to_owned).to_vec();
        let mut rows = vec![heading];
        for layer in &self.kept {
            let Layer { before, after, time: [dense, pruned] } = layer;
            let (macs, time) = (after.macs as f64 / before.macs.max(1) as f64, pruned / dense.max(1e-12));
            if time < macs + NAMED.0 || dense / self.total[0] < NAMED.1 {
                continue;
            }
            rows.push(vec![
                after.name.clone(),
                format!("{} of {}", after.inputs, before.inputs),
                format!("{} of {}", after.outputs, before.outputs),
                percent(macs),
                percent(time),
                layer.reason(),
            ]);
        }
        let [dense, pruned] = self.others.map(|seconds| format!("{:.2} ms", 1e3 * seconds));
        let [all, left] = self.total.map(|seconds| format!("{:.2} ms", 1e3 * seconds));
        let others = format!(
            "All operations take {left} of {all}; those that are no convolution, such as sums and copies of channels, {pruned} of {dense}.\n"
        );
        if rows.len() == 1 {
            return format!("the time of every layer fell as its MACs did.\n{others}");
        }
        format!(
            "layers whose time did not fall as their MACs did, as shares of the dense ones\n\n{}\n{others}",
            table(&rows)
        )
    }
}

impl Layer {
    /// What probably keeps the time up.
    fn reason(&self) -> String {
        let ConvCost { inputs, outputs, macs, values, .. } = self.after;
        let uneven = |now: usize, before: usize| now != before && !now.is_multiple_of(CHANNELS);
        let mut reasons = Vec::new();
        if uneven(outputs, self.before.outputs) || uneven(inputs, self.before.inputs) {
            reasons.push(format!("widths that are no multiples of {CHANNELS}"));
        }
        if macs / values.max(1) < MACS_PER_VALUE {
            reasons.push("waits for memory, not for arithmetic".to_owned());
        }
        if reasons.is_empty() { "–".into() } else { reasons.join("; ") }
    }
}

/// What the operations of a convolution took: those named by it, or by it and its activation.
fn seconds_of(conv: &ConvCost, operations: &[(String, f64)]) -> f64 {
    let is_own = |name: &str| {
        let rest = name.strip_prefix(conv.name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '_']))
    };
    operations.iter().filter(|(name, _)| is_own(name)).map(|(_, seconds)| seconds).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::NetSpec;

    #[test]
    fn a_layer_whose_time_did_not_fall_is_named_with_its_widths() {
        let dense = Cost::of(&NetSpec::preset("cifar-resnet20", 10).unwrap(), 32, 32).unwrap();
        let mut pruned = dense.clone();
        let conv = pruned.convs.iter_mut().find(|conv| conv.name == "layer1.0.conv1").unwrap();
        (conv.macs, conv.outputs) = (conv.macs / 2, 7);
        let before = [("conv1_nchwc".to_owned(), 1.0), ("layer1.0.conv1/relu_nchwc".to_owned(), 2.0)];
        let after = [("conv1_nchwc".to_owned(), 1.0), ("layer1.0.conv1".to_owned(), 1.8), ("Gather".to_owned(), 0.5)];
        let text = Layers::of(&dense, &pruned, &before, &after).text();
        let row = text.lines().find(|line| line.starts_with("layer1.0.conv1")).unwrap();
        assert!(row.contains("7 of 16") && row.contains("50.0%") && row.contains("90.0%"), "{text}");
        assert!(row.contains("no multiples of 8"), "{text}");
        assert!(text.contains("3300.00 ms of 3000.00 ms") && text.contains("500.00 ms of 0.00 ms"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("conv1 ")), "{text}");
    }
}

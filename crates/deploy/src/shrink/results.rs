//! What the stages of a shrink find: plain data.

use crate::shrink::asked::Budget;
use arch::{BlockSpec, CostTable, NetSpec};
use serde::{Deserialize, Serialize};

/// What a network takes and gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Share of the validation images whose class it tells right: of the smaller network in the
    /// runtime that it is for, of the dense one in this program.
    pub top1: f64,
    /// Multiply-accumulates for an image, as a mean over those images.
    pub macs: f64,
    /// Learned numbers.
    pub parameters: u64,
    /// Size of its ONNX file.
    pub bytes: u64,
    /// Time for a batch in the runtime that it is for; absent before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Spread>,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of the runs took at most this.
    pub low: f64,
    /// Half of them did.
    pub median: f64,
    /// Three quarters did.
    pub high: f64,
}

impl Spread {
    /// Of times in seconds.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let last = seconds.len().saturating_sub(1);
        let at = |share: f64| 1e3 * seconds.get((share * last as f64).round() as usize).copied().unwrap_or_default();
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

/// What training came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// The state that is exported, below the folder.
    pub checkpoint: String,
    /// Its top-1 in this program.
    pub top1: f64,
    /// MACs for an image, as a mean over the validation images.
    pub macs: f64,
    /// Training, in epochs of the dense network.
    pub dense_epochs: f64,
    /// Wall time of training since it was last begun, in seconds.
    pub seconds: f64,
}

/// What is known before training.
#[derive(Debug, Clone, PartialEq)]
pub struct Prospect {
    /// The dense network.
    pub dense: Side,
    /// What its gates can reach.
    pub reach: Option<String>,
    /// How long training would take, in seconds.
    pub seconds: f64,
}

/// An error of a prediction that is said loudly.
const LARGE: f64 = 0.1;

/// Whether a prediction is so far off that it is said.
pub(crate) fn is_wrong(predicted: f64, measured: f64) -> bool {
    (predicted / measured - 1.0).abs() > LARGE
}

/// What came of a shrink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shrunk {
    /// The network as it was given.
    pub dense: Side,
    /// What was made of it.
    pub small: Side,
    /// The largest difference of a logit between the exported files and this program, as a share
    /// of the largest logit, by runtime.
    pub differences: Vec<(String, f64)>,
    /// Images that were classified.
    pub images: usize,
    /// The name of the processor.
    pub machine: String,
    /// Threads that the runtime had.
    pub threads: usize,
    /// The share of the dense network's time that the table of times predicts, of a budget of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<f64>,
    /// Times of the blocks, where the runtime tells or a table predicts them.
    pub blocks: Vec<BlockTime>,
}

/// What a block takes, in milliseconds for a batch: dense, and in the smaller network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockTime {
    /// Its name.
    pub name: String,
    /// By the table of times that the budget was spent by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<[f64; 2]>,
    /// As a sum over its operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<[f64; 2]>,
}

impl BlockTime {
    /// The times of all blocks of a dense network, `specs[0]`, by what `predicted` says of it and of
    /// the smaller one, and by what the operations of each took, by their names.
    ///
    /// # Errors
    /// If the table is of another network.
    pub fn all(
        specs: [&NetSpec; 2],
        predicted: Option<&CostTable>,
        operations: [&[(String, f64)]; 2],
    ) -> arch::Result<Vec<Self>> {
        let predicted = predicted.map(|table| predictions(specs, table)).transpose()?;
        let of_block = |(number, block): (usize, &BlockSpec)| {
            let measured = operations.map(|all| 1e3 * seconds_of(&block.name, all));
            Self {
                name: block.name.clone(),
                predicted: predicted.as_ref().map(|all| all[number]),
                measured: (measured[0] > 0.0).then_some(measured),
            }
        };
        Ok(specs[0].blocks.iter().enumerate().map(of_block).collect())
    }
}

/// What a table says of each block of a dense network, and of what is left of it in a smaller one.
fn predictions([dense, small]: [&NetSpec; 2], table: &CostTable) -> arch::Result<Vec<[f64; 2]>> {
    let [before, after] = [table.spending(dense)?, table.spending(small)?];
    let left = |name: &str| {
        let found = small.blocks.iter().zip(after.blocks()).find(|(left, _)| left.name == name);
        found.map_or(0.0, |(_, cost)| *cost)
    };
    Ok(dense.blocks.iter().zip(before.blocks()).map(|(block, &open)| [open, left(&block.name)]).collect())
}

/// What the operations of a block or layer took together: those whose names begin with its own.
pub fn seconds_of(name: &str, operations: &[(String, f64)]) -> f64 {
    let own = |operation: &str| operation.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '/', '_']));
    operations.iter().filter(|(operation, _)| own(operation)).map(|(_, seconds)| seconds).sum()
}

impl Shrunk {
    /// The smaller network's time as a share of the dense one's.
    pub fn time_share(&self) -> Option<f64> {
        Some(self.small.time?.median / self.dense.time?.median)
    }

    /// By how much a budget is exceeded, if it clearly is: times vary, MACs do not.
    pub fn excess(&self, budget: Budget) -> Option<String> {
        let (found, tolerance) = match budget {
            Budget::Macs(_) => (self.small.macs / self.dense.macs.max(1.0), 0.001),
            Budget::Time(_) => (self.time_share()?, 0.03),
        };
        let over = found - budget.share();
        (over > tolerance)
            .then(|| format!("asked for {budget}, it takes {:.1}%: {:.1} points more", 100.0 * found, 100.0 * over))
    }

    /// What is wrong with the table of times, if it predicted something else than was measured.
    pub fn misprediction(&self) -> Option<String> {
        let (predicted, measured) = (self.predicted?, self.time_share()?);
        is_wrong(predicted, measured).then(|| {
            format!(
                "the table of times predicted {:.1}% of the dense network's time where {:.1}% were measured; a machine \
                 that was busy when either was measured would explain it. Shrink again with another --out on one that is \
                 idle",
                100.0 * predicted,
                100.0 * measured
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_what_its_operations_take() {
        let spec = NetSpec::preset("cifar-resnet20", 10).unwrap();
        let operation = |name: &str, seconds: f64| (name.to_owned(), seconds);
        let dense = [
            operation("layer1.1.conv1", 0.001),
            operation("layer1.1.conv2_relu", 0.002),
            operation("layer1.10.conv1", 0.5),
        ];
        let found = BlockTime::all([&spec, &spec], None, [&dense, &dense[..1]]).unwrap();
        assert_eq!((found[1].name.as_str(), found[1].measured), ("layer1.1", Some([3.0, 1.0])));
        assert_eq!((found[0].measured, found[0].predicted), (None, None));
    }

    #[test]
    fn a_table_that_is_wrong_is_told() {
        let side = |median| Side { time: Some(Spread { median, ..Spread::default() }), ..Side::default() };
        let mut shrunk = Shrunk {
            dense: side(10.0),
            small: side(6.5),
            differences: Vec::new(),
            images: 1,
            machine: String::new(),
            threads: 1,
            predicted: Some(0.6),
            blocks: Vec::new(),
        };
        assert_eq!(shrunk.misprediction(), None);
        let over = shrunk.excess(Budget::Time(0.6)).unwrap();
        assert!(over.contains("60% of the time") && over.contains("65.0%: 5.0 points more"), "{over}");
        assert_eq!(shrunk.excess(Budget::Time(0.64)), None);
        shrunk.predicted = Some(0.55);
        let told = shrunk.misprediction().unwrap();
        assert!(told.contains("predicted 55.0%") && told.contains("65.0% were measured"), "{told}");
        shrunk.predicted = None;
        assert_eq!(shrunk.misprediction(), None);
    }

    #[test]
    fn a_spread_is_that_of_the_runs_in_milliseconds() {
        let spread = Spread::of(vec![0.005, 0.001, 0.003, 0.002, 0.004]);
        assert_eq!(spread, Spread { low: 2.0, median: 3.0, high: 4.0 });
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}

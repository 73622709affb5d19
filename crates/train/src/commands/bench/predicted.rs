//! What a table of costs predicts of a pruned network, beside what was measured.

use crate::table::{percent, table};
use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::{CostTable, NetSpec};
use deploy::processor;
use deploy::shrink::seconds_of;
use runtime::Runtime;
use std::path::Path;

/// An error of a prediction that is said loudly.
const LARGE: f64 = 0.1;

/// Blocks that are named, at most.
const NAMED: usize = 8;

/// A table of times and what it says of a pruned network.
pub(super) struct Predicted {
    table: CostTable,
    /// Milliseconds of each block, dense and pruned.
    blocks: Vec<(String, f64, f64)>,
    /// Of the whole network, dense and pruned.
    total: [f64; 2],
}

impl Predicted {
    /// Reads a table for a network of that size of images.
    pub(super) fn read(path: &Path, networks: [&NetSpec; 2], image_size: u32, anywhere: bool) -> Result<Self> {
        let table = CostTable::read(path)?;
        let [dense, pruned] = networks;
        table.require(&dense.name, image_size)?;
        if table.unit != "ms" {
            bail!(Usage(format!(
                "--times {}: it counts {}, which is not what is timed here",
                path.display(),
                table.unit
            )));
        }
        let (there, here) = (&table.measured.machine, processor());
        if *there != here && !anywhere {
            bail!(Usage(format!(
                "--times {}: it was measured on {there}, and this is {here}; measure here (train measure), or compare \
                 them all the same with --any-machine",
                path.display()
            )));
        }
        let [before, after] = [table.spending(dense)?, table.spending(pruned)?];
        let of_block = |(block, &open): (&arch::BlockSpec, &f64)| {
            let left = pruned.blocks.iter().zip(after.blocks()).find(|(left, _)| left.name == block.name);
            (block.name.clone(), open, left.map_or(0.0, |(_, cost)| *cost))
        };
        let (there, here) = (table.measured.threads, usize::try_from(tch::get_num_threads()).unwrap_or(1));
        if there != here && !anywhere {
            bail!(Usage(format!(
                "--times {}: it was measured with {there} threads, and {here} run here; give OMP_NUM_THREADS={there}, or \
                 compare them all the same with --any-machine",
                path.display()
            )));
        }
        let blocks = dense.blocks.iter().zip(before.blocks()).map(of_block).collect();
        Ok(Self { blocks, total: [before.dense(), after.dense()], table })
    }

    /// Whether it was measured so.
    pub(super) fn is_of(&self, runtime: Runtime, batch: u32) -> bool {
        self.table.measured.runtime == runtime.key() && self.table.measured.batch == batch as usize
    }

    /// How it was measured.
    pub(super) fn about(&self) -> String {
        let measured = &self.table.measured;
        format!("it was measured in {} with batches of {}", measured.runtime, measured.batch)
    }

    /// The share of the dense network's time.
    pub(super) fn share(&self) -> f64 {
        self.total[1] / self.total[0]
    }

    /// Both shares and, where the runtime tells what operations take, dense and pruned, the blocks
    /// that err most.
    pub(super) fn text(&self, measured: f64, operations: [&[(String, f64)]; 2]) -> String {
        let error = self.share() / measured - 1.0;
        let mut text = format!(
            "predicted   {} of the dense time, measured {}: {:+.1} % off\n",
            percent(self.share()),
            percent(measured),
            100.0 * error
        );
        if error.abs() > LARGE {
            let measured = &self.table.measured;
            text += &format!(
                "WARNING     the table does not describe what runs here. It was measured at multiples of {} channels in {}; \
                 other widths, another version or a busy machine would explain it. Measure anew: train measure\n",
                self.table.align, measured.runtime
            );
        }
        text + &self.worst(operations)
    }

    /// The blocks whose predicted share of their time is furthest from the measured one.
    fn worst(&self, [before, after]: [&[(String, f64)]; 2]) -> String {
        let mut rows: Vec<(f64, [String; 4])> = Vec::new();
        for (name, open, pruned) in &self.blocks {
            let [dense, left] = [seconds_of(name, before), seconds_of(name, after)];
            if dense <= 0.0 || *open <= 0.0 {
                continue;
            }
            let [predicted, measured] = [pruned / open, left / dense];
            let weight = (predicted - measured).abs() * open;
            let dense = format!("{:.3}", open);
            rows.push((weight, [name.clone(), dense, percent(predicted), percent(measured)]));
        }
        if rows.is_empty() {
            return String::new();
        }
        rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let heading = ["block", "dense ms", "predicted", "measured"].map(str::to_owned).to_vec();
        let rows = rows.into_iter().take(NAMED).map(|(_, row)| row.to_vec());
        let all: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
        format!("the blocks that err most, as shares of their dense time\n\n{}", table(&all))
    }
}

//! The second stage, for a budget of time: a table of times, and the configuration that is held to it.

use crate::error::{Error, Result};
use crate::shrink::asked::{Asked, Budget};
use crate::shrink::plan::Done;
use crate::shrink::results::is_wrong;
use crate::shrink::shrinking::{DENSE, Shrinking, TIMES, absolute};
use crate::stopwatch::{SECONDS, Stopwatch, best_alignment, processor, without_gates};
use crate::workers::threads;
use arch::{CostTable, Site};
use runtime::measure::Sampling;
use trainer::Config;
use trainer::config::{Align, Weighting};

impl Shrinking<'_> {
    /// The configuration to train with, its table of times measured if the budget is one of time.
    pub(super) fn config(&mut self) -> Result<Config> {
        let mut config = self.shrink.config.clone();
        config.network.weights = Some(absolute(&self.path(DENSE)));
        if matches!(self.shrink.asked.budget, Budget::Time(_)) {
            config.gates.weighting = Weighting::CostTable;
            config.gates.times = Some(absolute(&self.path(TIMES)));
            config.gates.align = None;
            self.times()?;
        } else if matches!(config.gates.align, Some(Align::Auto(_))) {
            let spec = without_gates(self.shrink.dense.network.spec().clone());
            let size = self.input().image_size;
            let align = best_alignment(self.shrink.workers, &spec, size, self.interrupt, &mut *self.note)?;
            config.gates.align = Some(Align::Channels(align));
        }
        Ok(config)
    }

    /// Measures what the network takes by its widths.
    fn times(&mut self) -> Result<()> {
        if let Some(done) = &self.plan.times {
            done.check(&self.folder.path)?;
            let measured = CostTable::read(&self.path(TIMES))?.measured;
            let here = (processor(), threads());
            if (measured.machine.as_str(), measured.threads) == (here.0.as_str(), here.1) {
                return Ok(());
            }
            self.tell(&format!(
                "the table of times is of {} threads of {}, and this is {} of {}; it is measured anew",
                measured.threads, measured.machine, here.1, here.0
            ));
        }
        let Asked { batch, runtime: name, .. } = &self.shrink.asked;
        let told = format!("measuring what it takes in {name} by its widths, with batches of {batch}");
        let (batch, runtime, workers) = (*batch, self.shrink.runtime, self.shrink.workers);
        self.tell(&told);
        let stopwatch = Stopwatch { workers, runtime, batch, seconds: SECONDS };
        let spec = without_gates(self.shrink.dense.network.spec().clone());
        let size = self.input().image_size;
        let align = stopwatch.alignment(&spec, size, self.interrupt)?;
        let sampling = Sampling { sites: self.shrink.config.gates.sites.clone(), levels: 6, gates: true };
        let mut table = stopwatch.table(&spec, size, align, &sampling, self.interrupt, &mut *self.note)?;
        if let Some(wrong) = self.misprediction(&stopwatch, &table)? {
            self.tell(&format!("{wrong}; measuring once more"));
            table = stopwatch.table(&spec, size, align, &sampling, self.interrupt, &mut *self.note)?;
            if let Some(wrong) = self.misprediction(&stopwatch, &table)? {
                self.tell(&format!("WARNING: {wrong}; the budget will be missed by as much"));
            }
        }
        let path = self.path(TIMES);
        let text = serde_json::to_string_pretty(&table);
        let text = text.map_err(|error| Error::Content { path: path.clone(), fault: error.to_string() })?;
        trainer::write_atomically(&path, text.as_bytes())?;
        self.plan.times = Some(Done::with(&self.folder.path, &[TIMES], ())?);
        self.plan.write(&self.folder.path)?;
        self.refuse_interruption()
    }

    /// What is wrong with a table, if it predicts another time than a network of the budget takes,
    /// filters chosen at random.
    fn misprediction(&mut self, stopwatch: &Stopwatch, table: &CostTable) -> Result<Option<String>> {
        let gated = self.shrink.config.spec(self.shrink.dense.classes.len())?;
        let share = self.shrink.asked.budget.share();
        let filters = gated.gate_sites().any(|(_, gates)| gates.site != Site::Layer);
        let spending = table.spending(&gated)?;
        if gated.has_dependent_gates() || !filters || spending.narrowest(table.align) > share * spending.dense() {
            // What cannot be reached is told by the run.
            return Ok(None);
        }
        let [predicted, measured] = stopwatch.check(table, &gated, share, self.input().image_size)?;
        let told = format!(
            "the table predicts {:.1}% of the dense time for a network that takes {:.1}%",
            100.0 * predicted,
            100.0 * measured
        );
        if is_wrong(predicted, measured) {
            return Ok(Some(format!("{told}; other programs that run here would explain it")));
        }
        self.tell(&told);
        Ok(None)
    }
}

//! The table of costs that a run's gates are held to.

use crate::config::schedule::ActivationTarget;
use crate::config::{Align, Config, Faults, Weighting};
use crate::error::{Error, Result};
use crate::run::origin::{Folder, Origin};
use arch::{Cost, CostTable, NetSpec, Spending};
use std::fs;

/// A table, and the text it was read from.
#[derive(Debug)]
pub(crate) struct Times {
    pub table: CostTable,
    pub text: String,
}

impl Times {
    /// The table of a run that counts by one: of a run that goes on its own copy.
    ///
    /// # Errors
    /// If the file cannot be read, is no table, is of another network, or is not the one that the
    /// run began with.
    pub fn read(
        config: &Config,
        folder: &Folder,
        origin: &Origin,
        spec: &NetSpec,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>> {
        let (Weighting::CostTable, Some(given)) = (config.gates.weighting, &config.gates.times) else {
            return Ok(None);
        };
        if spec.gate_count() == 0 {
            // Nothing is held to it, as in a network that was pruned.
            return Ok(None);
        }
        let own = match folder {
            Folder::Resumed(run, _) | Folder::BegunAgain(run, _) => Some(run.times()).filter(|path| path.exists()),
            Folder::New(_) => None,
        };
        if own.is_none() && matches!(folder, Folder::Resumed(..)) {
            // It did not begin with one, which its configuration tells.
            return Ok(None);
        }
        let path = own.clone().unwrap_or_else(|| given.clone());
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let times = Self { table: CostTable::parse(&text, &path)?, text };
        if let Origin::Resumed(last) = origin {
            let began = last.checkpoint.training.as_ref().and_then(|training| training.times);
            if began.is_some_and(|began| began != times.fingerprint()) {
                return Err(Error::TimesChanged { path });
            }
        }
        if own.is_some() && fs::read_to_string(given).is_ok_and(|given| given != times.text) {
            notes.push(format!(
                "{} is another table by now; the run goes on with its own, {}",
                given.display(),
                path.display()
            ));
        }
        times.table.require(&spec.name, config.data.image_size)?;
        Ok(Some(times))
    }

    pub fn fingerprint(&self) -> u64 {
        data::fingerprint(self.text.as_bytes())
    }
}

/// What the budget of a network counts: MACs, or by a table.
///
/// # Errors
/// If the table lacks something of the network.
pub(crate) fn spending(spec: &NetSpec, cost: &Cost, times: Option<&Times>) -> Result<Spending> {
    Ok(match times {
        Some(times) => times.table.spending(spec)?,
        None => cost.spending(),
    })
}

/// What the table says of keys that are left to it: the target as a share, and the multiples of
/// channels that it was measured in. Notes if gates do not freeze at those.
///
/// # Errors
/// If the target is more than the network spends.
pub(crate) fn settle(
    config: &mut Config,
    spec: &NetSpec,
    spending: &Spending,
    times: Option<&Times>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let Some(Times { table, .. }) = times else { return Ok(()) };
    let gates = &mut config.gates;
    if let Some(target) = gates.target_absolute {
        if target > spending.most() {
            let (most, unit) = (spending.most(), &table.unit);
            let message = format!("{target} {unit} is more than the {most:.3} {unit} that the network takes all open");
            return Err(Faults::of("gates.target_absolute", message).into());
        }
        gates.target = ActivationTarget::Constant((target / spending.dense()).min(1.0));
    }
    let filters = spec.gate_sites().any(|(_, gates)| gates.site != arch::Site::Layer);
    let to_settle = matches!(gates.align, None | Some(Align::Auto(_)));
    if filters && gates.freeze_after.is_some() && to_settle {
        gates.align = Some(Align::Channels(table.align));
    }
    if filters && !gates.freezes_at_multiples_of().is_multiple_of(table.align) {
        notes.push(format!(
            "costs were measured at multiples of {} channels, and gates do not freeze at those: what other widths cost is \
             a guess between them (gates.freeze_after, gates.align)",
            table.align
        ));
    }
    Ok(())
}

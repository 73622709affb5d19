//! What the folder of a run holds, read for a report.

use crate::error::{Error, Result};
use crate::shrink::{Plan, Shrunk};
use arch::{Cost, CutGates, NetSpec, Site};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use trainer::{Checkpoint, Config, RunDir, Summary, state_of};

/// What a run was asked for, how it went and what came of it.
#[derive(Debug)]
pub struct Found {
    /// What to call it.
    pub name: String,
    /// The training run.
    pub run: RunDir,
    /// Its configuration.
    pub config: Config,
    /// The epoch after which the state was saved that is deployed.
    pub(super) trained: u64,
    /// The network with its gates, and the network that is deployed.
    pub(super) specs: [NetSpec; 2],
    /// What they cost with all gates open.
    pub(super) costs: [Cost; 2],
    /// The evaluation of the state that is deployed.
    pub(super) evaluation: Summary,
    /// Lines of metrics.jsonl: of steps and of epochs.
    pub(super) steps: Vec<Value>,
    pub(super) epochs: Vec<Value>,
    /// gates/summary.json, if it was written.
    pub(super) gates: Value,
    /// Images by class and the right ones among them, after the last epoch: from gates/images.csv.
    pub(super) classes: Vec<Class>,
    /// Shares of the dense MACs, by image.
    pub(super) images: Vec<f64>,
    /// What a shrink measured.
    pub shrunk: Option<(Plan, Shrunk)>,
}

/// What became of the images of a class.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Class {
    pub name: String,
    pub images: usize,
    pub right: usize,
}

/// A layer before and after.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    pub name: String,
    /// Filters.
    pub before: usize,
    /// Filters that are left, as a mean over the images where gates look at them.
    pub after: f64,
}

impl Found {
    /// Reads the folder of a run, or of a shrink.
    ///
    /// # Errors
    /// If it is neither, nothing was saved in it yet, or a file is damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let fault = "expected the folder of a run, or of what shrink made".to_owned();
            return Err(Error::Content { path: folder.to_owned(), fault });
        }
        let plan = Plan::read(folder)?;
        let run = RunDir::at(&if plan.is_some() { folder.join("run") } else { folder.to_owned() });
        if !run.config().exists() || !run.has_state() {
            let fault = "there is no run in it, or none that was saved yet (of a sweep, name its folders)".to_owned();
            return Err(Error::Content { path: run.path().to_owned(), fault });
        }
        let config = Config::read_saved(&run.config(), &[])?;
        // What a shrink exported, or what a run's folder stands for.
        let exported = plan.as_ref().and_then(|plan| Some(folder.join(&plan.learned.as_ref()?.found.checkpoint)));
        let state = exported.unwrap_or_else(|| state_of(run.path()).into_owned());
        let Checkpoint { spec, training, input, .. } = Checkpoint::read(&state)?;
        let trained = training.as_ref().map_or(0, |training| training.epoch);
        let (evaluation, cut) = training.map_or((None, None), |training| (training.evaluation, training.cut));
        let Some(evaluation) = evaluation else {
            let fault = "nothing was evaluated yet; a report says what came of a run".to_owned();
            return Err(Error::Content { path: run.path().to_owned(), fault });
        };
        let gated = cut.map_or_else(|| spec.clone(), |CutGates { spec, .. }| spec);
        let size = input.image_size as usize;
        let costs = [Cost::of(&gated, size, size)?, Cost::of(&spec, size, size)?];
        let (steps, epochs) = metrics(&run.metrics())?;
        let (classes, images) = images(&run.gates().join("images.csv"))?;
        let shrunk = plan.and_then(|plan| {
            let shrunk = plan.shrunk.as_ref()?.found.clone();
            Some((plan, shrunk))
        });
        let name = folder.file_name().map_or_else(|| config.train.name.clone(), data::readable);
        Ok(Self {
            name,
            gates: json(&run.gates().join("summary.json"))?,
            run,
            config,
            trained,
            specs: [gated, spec],
            costs,
            evaluation,
            steps,
            epochs,
            classes,
            images,
            shrunk,
        })
    }

    /// Whether some gates look at the image.
    pub(super) fn is_conditional(&self) -> bool {
        self.specs[1].has_dependent_gates()
    }

    /// MACs per image, as a share of the dense network's.
    pub(super) fn macs_share(&self) -> f64 {
        self.shrunk.as_ref().map_or(self.evaluation.macs, |(_, shrunk)| shrunk.small.macs)
            / self.costs[0].dense.max(1) as f64
    }

    /// Top-1 where the network runs, or else in this program.
    pub(super) fn top1(&self) -> f64 {
        self.shrunk.as_ref().map_or(self.evaluation.top1, |(_, shrunk)| shrunk.small.top1)
    }

    /// Every convolution, before and after.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let left = |name: &str| {
            let conv = self.costs[1].convs.iter().find(|conv| conv.name == name);
            conv.map_or(0.0, |conv| conv.outputs as f64)
        };
        // A cut network says it itself.
        let is_cut = self.specs[0] != self.specs[1];
        let layer = |conv: &arch::ConvCost| {
            let after = if is_cut { left(&conv.name) } else { self.open_filters(&conv.name, conv.outputs) };
            Layer { name: conv.name.clone(), before: conv.outputs, after }
        };
        self.costs[0].convs.iter().map(layer).collect()
    }

    /// The filters of a convolution that gates leave open, as a mean over the images.
    fn open_filters(&self, conv: &str, filters: usize) -> f64 {
        let mut rates = self.evaluation.rates.as_slice();
        let mut open = filters as f64;
        for (block, site) in self.specs[0].gate_sites() {
            let (own, rest) = rates.split_at(site.count().min(rates.len()));
            rates = rest;
            let Some(within) = conv.strip_prefix(block.name.as_str()).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let place = block.branch.iter().position(|own| own.name == within);
            let decides = match (site.site, place) {
                (Site::Between(number), Some(place)) => place + 1 == number,
                (Site::Output, Some(place)) => place + 1 == block.branch.len(),
                (Site::Projection, None) => true,
                _ => false,
            };
            if decides {
                let kept: f64 = site.sizes().iter().zip(own).map(|(&size, rate)| size as f64 * rate).sum();
                open = open / filters.max(1) as f64 * (site.fixed_open() as f64 + kept);
            }
        }
        open
    }
}

/// The lines of metrics.jsonl about steps, and those about epochs.
fn metrics(path: &Path) -> Result<(Vec<Value>, Vec<Value>)> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
    };
    // A run that was killed may have left half a line.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter(|line| line["event"].is_string()).partition(|line| line["event"] == "step"))
}

fn json(path: &Path) -> Result<Value> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| Error::Content { path: path.to_owned(), fault: format!("it is damaged ({error})") }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// What gates/images.csv says by class, in its order, and the share of MACs of each image.
fn images(path: &Path) -> Result<(Vec<Class>, Vec<f64>)> {
    let damaged = |error: csv::Error| Error::Content { path: path.to_owned(), fault: error.to_string() };
    if !path.exists() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut classes: Vec<Class> = Vec::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut images = Vec::new();
    for row in csv::Reader::from_path(path).map_err(damaged)?.into_records() {
        let row = row.map_err(damaged)?;
        let cell = |number: usize| row.get(number).unwrap_or_default();
        let share: f64 = cell(4).parse().unwrap_or_default();
        let number = *numbers.entry(cell(1).to_owned()).or_insert(classes.len());
        if number == classes.len() {
            classes.push(Class { name: cell(1).to_owned(), ..Class::default() });
        }
        classes[number].images += 1;
        classes[number].right += usize::from(cell(1) == cell(2));
        images.push(share);
    }
    Ok((classes, images))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_by_class_in_whatever_order_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.csv");
        let rows = ["a.jpg,cat,cat,10,0.5,2", "b.jpg,dog,cat,20,0.75,3", "c.jpg,cat,dog,10,0.25,1"];
        fs::write(&path, format!("image,class,predicted,macs,macs_share,open_gates\n{}\n", rows.join("\n"))).unwrap();
        let (classes, shares) = images(&path).unwrap();
        let class = |name: &str, images, right| Class { name: name.into(), images, right };
        assert_eq!(classes, [class("cat", 2, 1), class("dog", 1, 0)]);
        assert_eq!(shares, [0.5, 0.75, 0.25]);
    }
}

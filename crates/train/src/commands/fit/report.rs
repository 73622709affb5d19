//! What `train fit` prints: what came of a run, or what a dry run found.

use crate::table::{bytes, count, macs, metric_value, of_published, percent, table};
use crate::usage::quoted;
use gumbel_gates::GateKind;
use serde_json::json;
use std::time::Duration;
use trainer::config::{ActivationLoss, Metric, Weighting};
use trainer::{DryRun, Polarization, Verdict, duration};

/// A name and what there is to say of it.
type Fact = (&'static str, String);

fn lines(facts: impl IntoIterator<Item = Fact>) -> String {
    facts.into_iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect()
}

pub(super) fn dry_text(found: &DryRun) -> String {
    let notes: String = found.notes.iter().flat_map(|note| [note.as_str(), "\n"]).collect();
    let ((parameters, of_gates), (epochs, steps, evaluations)) = (found.parameters, found.length);
    let memory = found.memory.map(|memory| ("memory", format!("{} at the peak", bytes(memory))));
    let length = duration(Duration::from_secs_f64(found.projected()));
    let each = format!("{steps} steps and {evaluations} evaluation batches each");
    let parameters = format!("{} and {} of gates", count(parameters), count(of_gates));
    let facts = [
        ("step", format!("{:.3} s: {}", found.step.total, found.step.shares())),
        ("evaluation", format!("{:.3} s a batch", found.evaluation)),
        ("checkpoint", bytes(found.checkpoint as u64)),
        ("length", format!("about {length} for {epochs} epochs of {each}, at this pace")),
    ];
    let reach = found.reach.as_ref().map(|reach| ("budget", reach.to_string()));
    notes + &lines([("parameters", parameters)].into_iter().chain(memory).chain(reach).chain(facts))
}

pub(super) fn dry_json(found: &DryRun) -> String {
    let (epochs, steps, evaluations) = found.length;
    let value = json!({
        "parameters": found.parameters.0,
        "gate_parameters": found.parameters.1,
        "peak_memory_bytes": found.memory,
        "step_seconds": found.step,
        "evaluation_batch_seconds": found.evaluation,
        "checkpoint_bytes": found.checkpoint,
        "epochs": epochs,
        "steps_per_epoch": steps,
        "evaluation_batches": evaluations,
        "projected_seconds": found.projected(),
        "reach": found.reach.as_ref().map(|reach| json!({
            "unit": reach.unit,
            "least": reach.least,
            "most": reach.most,
            "dense": reach.dense,
        })),
    });
    format!("{value:#}\n")
}

/// `published` is what the network cost before it was made smaller, if it was; `program` is how
/// this one was called.
pub(super) fn text(verdict: &Verdict, published: Option<u64>, program: &str) -> String {
    let facts = quality(verdict).into_iter().chain(gates(verdict)).chain(costs(verdict, published));
    let next = [("next", next(verdict, program))];
    format!("\n{}\n{}", table(&blocks(verdict)), lines(facts.chain(files(verdict)).chain(next)))
}

/// The command that most people give next.
fn next(verdict: &Verdict, program: &str) -> String {
    let best = quoted(&verdict.run.best());
    if verdict.activation.is_none() || verdict.is_cut {
        return format!("{program} export --checkpoint {best} --out network.onnx");
    }
    let Polarization { always_open, always_closed, .. } = Polarization::of(&verdict.evaluation.summary.rates);
    if always_open + always_closed == 0 {
        return format!("{program} export --checkpoint {best} --mode skip --out network.pt");
    }
    let data = match (verdict.config.gates.kind, &verdict.config.data.path) {
        (GateKind::Dependent, Some(path)) => format!(" --data {} --share 0.99", quoted(path)),
        _ => String::new(),
    };
    format!("{program} prune --checkpoint {best}{data} --out pruned.safetensors")
}

/// The rows of a table of the blocks.
fn blocks(verdict: &Verdict) -> Vec<Vec<String>> {
    let heading = ["block", "output", "target", "open", "MACs dense", "MACs used"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let cost = &verdict.cost;
    let used = &verdict.evaluation.summary.block_macs;
    for ((block, gates), used) in cost.blocks.iter().zip(&verdict.blocks).zip(used) {
        let target = match (gates, verdict.config.gates.loss) {
            (None, _) => "no gate".to_owned(),
            (Some(gates), ActivationLoss::PerGate) => percent(gates.target),
            // Only their mean has one.
            (Some(_), ActivationLoss::Batch) => "–".to_owned(),
        };
        rows.push(vec![
            block.name.clone(),
            format!("{}×{}", block.extent.0, block.extent.1),
            target,
            match gates.map_or(1.0, |gates| gates.open_rate) {
                0.0 => "0.0% (shortcut)".to_owned(),
                rate => percent(rate),
            },
            macs(block.macs() as f64),
            macs(*used),
        ]);
    }
    rows
}

/// What the last evaluation measured, and the best one.
fn quality(verdict: &Verdict) -> [Fact; 3] {
    let summary = &verdict.evaluation.summary;
    let (metric, (epoch, best)) = (verdict.config.checkpoints.best_by, verdict.best);
    let name = if metric == Metric::Top1 { String::new() } else { format!("{} ", metric.name()) };
    let over = if verdict.best_is_over_budget { ", with gates above their target" } else { "" };
    let best = format!("(best {name}{} in epoch {epoch}{over})", metric_value(metric, best));
    let strategy = &verdict.evaluation.strategy;
    let images = summary.images;
    [
        ("top-1", format!("{}  {best}", percent(summary.top1))),
        ("top-5", percent(summary.top5)),
        ("policy", format!("{strategy}, {images} validation images")),
    ]
}

/// What the gates do, none of it without gates.
fn gates(verdict: &Verdict) -> Vec<Fact> {
    let Some(activation) = verdict.activation else { return Vec::new() };
    let summary = &verdict.evaluation.summary;
    let open_rate = percent(summary.open_rate());
    let of_gates = target(verdict, Weighting::Gates);
    let mut facts = vec![("open rate", format!("{open_rate} on average over the gates{of_gates}"))];
    if verdict.config.gates.weighting == Weighting::Macs {
        let found = percent(activation.found);
        let of_macs = target(verdict, Weighting::Macs);
        facts.push(("gated MACs", format!("{found} of them used{of_macs}")));
    }
    let Polarization { always_open, always_closed, conditional } = Polarization::of(&summary.rates);
    let always = format!("{always_open} always open, {always_closed} always closed");
    facts.push(("gates", format!("{always}, {conditional} open for some images")));
    facts
}

/// The gates' target, to stand behind what `weighting` counts; nothing if it is of something else.
fn target(verdict: &Verdict, weighting: Weighting) -> String {
    let counts = verdict.config.gates.weighting == weighting;
    let Some(activation) = verdict.activation.filter(|_| counts) else { return String::new() };
    let mean = match verdict.config.gates.loss {
        ActivationLoss::PerGate => "",
        ActivationLoss::Batch => " for this mean",
    };
    format!(", target {}{mean}", percent(activation.target))
}

/// What the network and the run took.
fn costs(verdict: &Verdict, published: Option<u64>) -> Vec<Fact> {
    let cost = &verdict.cost;
    let used = verdict.evaluation.summary.macs;
    let epochs = verdict.epochs;
    let share = percent(used / cost.dense as f64);
    let (used_macs, used) = (used, macs(used));
    let (dense, gates) = (macs(cost.dense as f64), macs(cost.gates as f64));
    let of_dense = format!("{share} of the dense {dense} (gates included: {gates})");
    let target =
        target(verdict, Weighting::Network) + &of_published(used_macs, published, &verdict.config.network.arch);
    let minutes = verdict.seconds / 60.0;
    let plural = if epochs == 1 { "" } else { "s" };
    let mut facts = vec![
        ("MACs", format!("{used} per image, {of_dense}{target}")),
        ("time", format!("{minutes:.1} min for {epochs} epoch{plural}")),
    ];
    let epochs = verdict.training_macs / verdict.dense_epoch.max(1.0);
    facts.push((
        "training",
        format!("{:.3e} MACs, as many as {epochs:.2} epochs of the dense network", verdict.training_macs),
    ));
    if let Some(activation) = verdict.activation.filter(|_| verdict.config.gates.weighting == Weighting::CostTable) {
        let (dense, unit) = (verdict.reach.dense, &verdict.reach.unit);
        let (share, used) = (percent(activation.found), activation.found * dense);
        let of_cost = self::target(verdict, Weighting::CostTable);
        facts.push((
            "cost",
            format!("{used:.3} {unit} by gates.times, {share} of the dense {dense:.3} {unit}{of_cost}"),
        ));
    }
    if verdict.bad > 0 {
        let left_out = format!("{} images that could not be used, in the last epoch", verdict.bad);
        facts.push(("left out", left_out));
    }
    facts
}

/// What the run left, and where.
fn files(verdict: &Verdict) -> impl Iterator<Item = Fact> {
    let run = &verdict.run;
    let gate_use = verdict.activation.map(|_| ("gate use", run.gates()));
    let files = [
        ("best", run.best()),
        ("last", run.last()),
        ("config", run.config()),
        ("metrics", run.metrics()),
        ("tensorboard", run.tensorboard()),
    ];
    files.into_iter().chain(gate_use).map(|(name, path)| (name, path.display().to_string()))
}

pub(super) fn json(verdict: &Verdict) -> String {
    let summary = &verdict.evaluation.summary;
    let cost = &verdict.cost;
    let run = &verdict.run;
    let blocks: Vec<_> = cost
        .blocks
        .iter()
        .zip(&verdict.blocks)
        .zip(&summary.block_macs)
        .map(|((block, gates), used)| {
            json!({
                "name": block.name,
                "target": gates.map(|gates| gates.target),
                "open_rate": gates.map_or(1.0, |gates| gates.open_rate),
                "macs_dense": block.macs(),
                "macs": used,
            })
        })
        .collect();
    let value = json!({
        "top1": summary.top1,
        "top5": summary.top5,
        "best": { "epoch": verdict.best.0, "metric": verdict.config.checkpoints.best_by, "value": verdict.best.1 },
        "policy": verdict.evaluation.strategy.to_string(),
        "open_rate": summary.open_rate(),
        "target": verdict.activation.map(|activation| activation.target),
        "activation": verdict.activation.map(|activation| activation.found),
        "macs": summary.macs,
        "macs_dense": cost.dense,
        "training_macs": verdict.training_macs,
        "dense_epochs": verdict.training_macs / verdict.dense_epoch.max(1.0),
        "budget": { "unit": verdict.reach.unit, "dense": verdict.reach.dense },
        "blocks": blocks,
        "bad_images": verdict.bad,
        "seconds": verdict.seconds,
        "run": data::readable(run.path().as_os_str()),
    });
    format!("{value:#}\n")
}

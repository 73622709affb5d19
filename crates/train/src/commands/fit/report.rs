//! What `train fit` prints: what came of a run, or what a dry run found.

use crate::table::{bytes, count, macs, metric_value, percent, table};
use serde_json::json;
use std::time::Duration;
use trainer::config::{ActivationLoss, Metric, Weighting};
use trainer::{DryRun, Polarisation, Verdict, duration};

pub(super) fn dry_text(found: &DryRun) -> String {
    let mut text: String = found.notes.iter().flat_map(|note| [note.as_str(), "\n"]).collect();
    let mut fact = |name: &str, value: String| text += &format!("{name:<12}{value}\n");
    let (parameters, of_gates) = found.parameters;
    fact("parameters", format!("{} and {} of gates", count(parameters), count(of_gates)));
    if let Some(memory) = found.memory {
        fact("memory", format!("{} at the peak", bytes(memory)));
    }
    fact("step", format!("{:.3} s: {}", found.step.total, found.step.shares()));
    fact("evaluation", format!("{:.3} s a batch", found.evaluation));
    fact("checkpoint", bytes(found.checkpoint as u64));
    let (epochs, steps, evaluations) = found.length;
    let length = duration(Duration::from_secs_f64(found.projected()));
    let each = format!("{steps} steps and {evaluations} evaluation batches each");
    fact("length", format!("about {length} for {epochs} epochs of {each}, at this pace"));
    text
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
    });
    format!("{value:#}\n")
}

pub(super) fn text(verdict: &Verdict) -> String {
    let (summary, cost) = (&verdict.evaluation.summary, &verdict.cost);
    let mut rows = vec![["block", "output", "target", "open", "MACs dense", "MACs used"].map(str::to_owned).to_vec()];
    for ((block, gates), used) in cost.blocks.iter().zip(&verdict.blocks).zip(&summary.block_macs) {
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
            percent(gates.map_or(1.0, |gates| gates.opening)),
            macs(block.macs() as f64),
            macs(*used),
        ]);
    }
    let mut text = format!("\n{}\n", table(&rows));
    let mut fact = |name: &str, value: String| text += &format!("{name:<12}{value}\n");
    let (metric, (best_epoch, best)) = (verdict.config.checkpoints.best_by, verdict.best);
    let name = if metric == Metric::Top1 { String::new() } else { format!("{} ", metric.name()) };
    fact(
        "top-1",
        format!("{}  (best {name}{} in epoch {best_epoch})", percent(summary.top1), metric_value(metric, best)),
    );
    fact("top-5", percent(summary.top5));
    fact("policy", format!("{}, {} validation images", verdict.evaluation.strategy, summary.images));
    let mut of_macs = String::new();
    if let Some(activation) = verdict.activation {
        let mean = match verdict.config.gates.loss {
            ActivationLoss::PerGate => "",
            ActivationLoss::Batch => " for this mean",
        };
        let target = format!(", target {}{mean}", percent(activation.target));
        // Behind what it is a target of.
        let (of_gates, of_gated_macs);
        let nothing = String::new;
        (of_gates, of_gated_macs, of_macs) = match verdict.config.gates.weighting {
            Weighting::Gates => (target, None, nothing()),
            Weighting::Macs => (nothing(), Some(target), nothing()),
            Weighting::Network => (nothing(), None, target),
        };
        fact("opening", format!("{} on average over the gates{of_gates}", percent(summary.opening())));
        if let Some(target) = of_gated_macs {
            fact("gated MACs", format!("{} of them used{target}", percent(activation.found)));
        }
        let Polarisation { always_open, always_closed, conditional } = Polarisation::of(&summary.rates);
        fact(
            "gates",
            format!("{always_open} always open, {always_closed} always closed, {conditional} open for some images"),
        );
    }
    fact(
        "MACs",
        format!(
            "{} per image, {} of the dense {} (gates included: {}){of_macs}",
            macs(summary.macs),
            percent(summary.macs / cost.dense as f64),
            macs(cost.dense as f64),
            macs(cost.gates as f64)
        ),
    );
    let minutes = verdict.seconds / 60.0;
    fact(
        "time",
        format!("{minutes:.1} min for {} epoch{}", verdict.epochs, if verdict.epochs == 1 { "" } else { "s" }),
    );
    if verdict.bad > 0 {
        fact("left out", format!("{} images that could not be used, in the last epoch", verdict.bad));
    }
    let run = &verdict.run;
    let gate_use = verdict.activation.map(|_| ("gate use", run.gates()));
    for (name, path) in [
        ("best", run.best()),
        ("last", run.last()),
        ("config", run.config()),
        ("metrics", run.metrics()),
        ("tensorboard", run.tensorboard()),
    ]
    .into_iter()
    .chain(gate_use)
    {
        fact(name, path.display().to_string());
    }
    text
}

pub(super) fn json(verdict: &Verdict) -> String {
    let (summary, cost, run) = (&verdict.evaluation.summary, &verdict.cost, &verdict.run);
    let blocks: Vec<_> = cost
        .blocks
        .iter()
        .zip(&verdict.blocks)
        .zip(&summary.block_macs)
        .map(|((block, gates), used)| {
            json!({
                "name": block.name,
                "target": gates.map(|gates| gates.target),
                "opening": gates.map_or(1.0, |gates| gates.opening),
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
        "opening": summary.opening(),
        "target": verdict.activation.map(|activation| activation.target),
        "activation": verdict.activation.map(|activation| activation.found),
        "macs": summary.macs,
        "macs_dense": cost.dense,
        "blocks": blocks,
        "bad_images": verdict.bad,
        "seconds": verdict.seconds,
        "run": run.path(),
    });
    format!("{value:#}\n")
}

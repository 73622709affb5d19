//! `train inspect`

use crate::done::Done;
use crate::source::{Source, network_with_weights};
use crate::table::{grouped, macs, metric_value, of_published, percent, table};
use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::{BlockSpec, Cost, CostTable, GateSite, Measured, NetSpec, Preset, Site, Spending};
use serde_json::json;
use std::path::{Path, PathBuf};
use tch::Device;
use trainer::{Checkpoint, Training};

/// Show what a network is and costs
///
/// Blocks, gates, parameters and multiply-accumulates; for a checkpoint also where its training
/// stands.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train inspect --arch resnet50\n  train inspect runs/resnet50-aig/checkpoints/last.safetensors"
)]
pub(crate) struct Args {
    /// A checkpoint
    #[arg(value_name = "FILE", conflicts_with_all = ["checkpoint", "arch", "num_classes"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Side of the images the cost is for, in pixels [default: the checkpoint's or preset's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    image_size: Option<u32>,
    /// A table of costs (train measure): also say what each block costs by it, and what gates can
    /// reach
    #[arg(long, value_name = "FILE")]
    times: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let Source { checkpoint, arch, weights, num_classes } = args.source;
    let (spec, size, training) = match (checkpoint.or(args.file), arch, weights) {
        (Some(path), ..) => {
            let checkpoint = Checkpoint::read(&path)?;
            (checkpoint.spec, checkpoint.input.image_size, checkpoint.training)
        }
        (None, Some(name), Some(path)) => (
            network_with_weights(&name, &path, num_classes, Device::Cpu)?.spec().clone(),
            Preset::named(&name)?.image_size,
            None,
        ),
        (None, Some(name), None) => {
            (NetSpec::preset(&name, num_classes.unwrap_or(1000) as usize)?, Preset::named(&name)?.image_size, None)
        }
        (None, None, _) => bail!(Usage("which network? Give a checkpoint FILE, or --arch NAME".into())),
    };
    let size = args.image_size.unwrap_or(size);
    let cost = Cost::of(&spec, size as usize, size as usize)?;
    let times = args.times.as_ref().map(|path| Times::read(path, &spec, size)).transpose()?;
    Ok(Done::ok(match args.json {
        true => json(&spec, size, &cost, training, times.as_ref())?,
        false => text(&spec, size, &cost, training, times.as_ref())?,
    }))
}

/// What a table of costs says of a network.
struct Times {
    table: CostTable,
    spending: Spending,
}

impl Times {
    fn read(path: &Path, spec: &NetSpec, size: u32) -> Result<Self> {
        let table = CostTable::read(path)?;
        table.require(&spec.name, size)?;
        Ok(Self { spending: table.spending(spec)?, table })
    }

    /// The cost of a block by the table.
    fn of_block(&self, block: usize) -> String {
        self.spending.blocks().get(block).map_or(String::new(), |cost| format!("{cost:.3}"))
    }

    /// The cost of the network, and what its gates can reach, if it has any.
    fn text(&self, gates: bool) -> String {
        let Self { table, spending } = self;
        let Measured { machine, runtime, threads, batch } = &table.measured;
        let (dense, unit) = (spending.dense(), &table.unit);
        let share = |cost: f64| format!("{cost:.3} {unit} ({})", percent(cost / dense));
        let reach = match gates {
            true => {
                format!("; gates can reach {} to {}", share(spending.narrowest(table.align)), share(spending.most()))
            }
            false => String::new(),
        };
        format!(
            "{dense:.3} {unit}, of which {:.3} outside the blocks{reach}; measured at multiples of {} channels in \
             {runtime}, batches of {batch}, {threads} threads, on {machine}",
            table.outside, table.align
        )
    }
}

fn text(spec: &NetSpec, size: u32, cost: &Cost, training: Option<Training>, times: Option<&Times>) -> Result<String> {
    let mut rows = vec![["block", "channels", "output", "parameters", "MACs", "gates"].map(str::to_owned).to_vec()];
    if let Some(times) = times {
        rows[0].insert(5, times.table.unit.clone());
    }
    for (number, (block, cost)) in spec.blocks.iter().zip(&cost.blocks).enumerate() {
        let mut row = vec![
            block.name.clone(),
            format!("{} → {}", block.inputs, block.outputs),
            format!("{}×{}", cost.extent.0, cost.extent.1),
            grouped(cost.parameters),
            macs(cost.macs() as f64),
            gates(block),
        ];
        if let Some(times) = times {
            row.insert(5, times.of_block(number));
        }
        rows.push(row);
    }
    let mut text =
        format!("{}, {} classes, images of {size}×{size} pixels\n\n{}\n", spec.name, spec.head.classes, table(&rows));
    let mut fact = |name: &str, value: String| text += &format!("{name:<12}{value}\n");
    fact("parameters", grouped(cost.parameters));
    let of = of_published(cost.dense as f64, Cost::of_published(spec, size as usize), &spec.name);
    fact("MACs", format!("{} ({}){of}", macs(cost.dense as f64), grouped(cost.dense)));
    if spec.gate_count() > 0 {
        fact(
            "gates",
            format!(
                "{} with {} parameters and {}; they decide about {} of the MACs",
                spec.gate_count(),
                grouped(cost.gate_parameters),
                macs(cost.gates as f64),
                percent(cost.gated() as f64 / cost.dense as f64)
            ),
        );
    }
    if let Some(times) = times {
        fact("cost", times.text(spec.gate_count() > 0));
    }
    if let Some(training) = training {
        let of = training.config.train.epochs;
        let inside = if training.batch > 0 { format!(" and {} steps", training.batch) } else { String::new() };
        fact("training", format!("{} of {of} epochs{inside}, {} steps in all", training.epoch, training.step));
        let whole = match &training.cut {
            None => cost.dense,
            Some(cut) => {
                let whole = Cost::of(&cut.spec, size as usize, size as usize)?.dense;
                let open = cut.open.iter().filter(|open| **open).count();
                let gates = cut.open.len();
                fact("cut", format!("from {} when {open} of {gates} gates froze open", macs(whole as f64)));
                whole
            }
        };
        if let Some(evaluation) = training.evaluation {
            fact(
                "evaluation",
                format!(
                    "top-1 {}, top-5 {}, open rate {}, MACs {} of dense ({})",
                    percent(evaluation.top1),
                    percent(evaluation.top5),
                    percent(evaluation.open_rate()),
                    percent(evaluation.macs / whole as f64),
                    training.config.train.policy,
                ),
            );
        }
        if let Some((epoch, value)) = training.best {
            let metric = training.config.checkpoints.best_by;
            fact("best", format!("{} {} in epoch {epoch}", metric.name(), metric_value(metric, value)));
        }
    }
    Ok(text)
}

/// The gates of a block, their kind named once.
fn gates(block: &BlockSpec) -> String {
    if block.branch.is_empty() {
        return "(shortcut)".to_owned();
    }
    let Some(first) = block.gates.first() else { return String::new() };
    let describe = |site: &GateSite| match site.site {
        Site::Layer => site.site.to_string(),
        _ => format!("{} {}", site.site, site.count()),
    };
    let kind = if block.gates.iter().all(|site| site.kind == first.kind) { first.kind.name() } else { "mixed" };
    format!("{}, {kind}", block.gates.iter().map(describe).collect::<Vec<_>>().join(" + "))
}

fn json(spec: &NetSpec, size: u32, cost: &Cost, training: Option<Training>, times: Option<&Times>) -> Result<String> {
    let blocks: Vec<_> = spec
        .blocks
        .iter()
        .zip(&cost.blocks)
        .map(|(block, cost)| {
            json!({
                "name": block.name,
                "inputs": block.inputs,
                "outputs": block.outputs,
                "height": cost.extent.0,
                "width": cost.extent.1,
                "parameters": cost.parameters,
                "macs": cost.macs(),
                "macs_branch": cost.branch,
                "gates": block.gates.iter().map(|site| json!({
                    "site": site.site.to_string(),
                    "kind": site.kind.name(),
                    "count": site.count(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let value = json!({
        "name": spec.name,
        "classes": spec.head.classes,
        "image_size": size,
        "parameters": cost.parameters,
        "macs": cost.dense,
        "gate_count": spec.gate_count(),
        "gate_parameters": cost.gate_parameters,
        "gate_macs": cost.gates,
        "gated_macs": cost.gated(),
        "times": times.map(|Times { table, spending }| json!({
            "unit": table.unit,
            "dense": spending.dense(),
            "least": spending.narrowest(table.align),
            "most": spending.most(),
            "blocks": spending.blocks(),
        })),
        "blocks": blocks,
        "training": training.map(|training| json!({
            "epochs_done": training.epoch,
            "epochs": training.config.train.epochs,
            "steps": training.step,
            "best": training.best.map(|(epoch, value)| {
                json!({ "epoch": epoch, "metric": training.config.checkpoints.best_by, "value": value })
            }),
            "evaluation": training.evaluation,
            "cut": training.cut.map(|cut| json!({ "open": cut.open.iter().filter(|open| **open).count(), "gates": cut.open.len() })),
        })),
    });
    Ok(format!("{value:#}\n"))
}

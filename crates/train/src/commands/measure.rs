//! `train measure`

use crate::commands::runtime_worker::workers;
use crate::done::{Done, note};
use crate::source::Source;
use crate::table::table;
use crate::usage::{Usage, quoted, refuse_existing};
use anyhow::{Result, bail};
use arch::{CostTable, NetSpec, Preset, SiteKind};
use deploy::{Stopwatch, without_gates};
use runtime::Runtime;
use runtime::measure::{Plan, Sampling};
use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::{Checkpoint, Config};

/// Measure what a network takes on this device, by the widths of its layers
///
/// The table it writes is what a budget in milliseconds is spent by (gates.times), and what bench
/// inference --times predicts from. Blocks are timed in small networks that repeat them, at several
/// widths, in turn with the whole network.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train measure --config configs/resnet50-filter.toml --out times.json\n  train measure --arch mobilenet_v2 --runtime torchscript --batch 16 --out times.json\n  train measure --arch resnet50 --align 8 --probes probes.zip"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// A configuration, for its network, the side of its images and where its gates sit
    #[arg(long, value_name = "FILE", conflicts_with_all = ["network", "sites"])]
    config: Option<PathBuf>,
    /// The table to write; must not exist
    #[arg(long, value_name = "FILE", required_unless_present = "probes")]
    out: Option<PathBuf>,
    /// Write the networks to be timed to one file instead, for a device that this program does not
    /// run on: scripts/measure_times.py makes the table there, with ONNX Runtime alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "runtime", "batch", "seconds"], requires = "align")]
    probes: Option<PathBuf>,
    /// What runs it: libtorch (this program), torchscript, onnxruntime or openvino
    #[arg(long, value_name = "NAME", default_value = "onnxruntime")]
    runtime: Runtime,
    /// Images per batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Where filters will be gated: input, between, output, projection
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "between")]
    sites: Vec<String>,
    /// Measure widths that are multiples of N channels [default: what this device computes well,
    /// which is measured first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    align: Option<u16>,
    /// Widths of each site at most
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=64))]
    levels: u16,
    /// How long the networks of each shape of block are timed
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<Done> {
    args.out.iter().chain(&args.probes).try_for_each(|path| refuse_existing(path))?;
    let (spec, image_size, sites) = match &args.config {
        Some(path) => {
            let config = Config::read(path, &[])?;
            (without_gates(config.spec(1000)?), config.data.image_size, config.gates.sites)
        }
        None => {
            let (spec, image_size) = network(&args.source)?;
            (spec, image_size, args.sites.iter().map(|name| site(name)).collect::<Result<Vec<_>>>()?)
        }
    };
    let sampling = Sampling { sites, levels: args.levels.into(), gates: true };
    let Some(out) = &args.out else { return probes(args, &spec, image_size, &sampling) };
    let (runtime, batch, seconds) = (args.runtime, args.batch, args.seconds.into());
    // Nothing sets it: a signal simply ends the program, and nothing was written.
    let never = AtomicBool::new(false);
    let stopwatch = Stopwatch { workers: workers(), runtime, batch, seconds };
    let align = match args.align {
        Some(align) => align.into(),
        None => stopwatch.alignment(&spec, image_size, &never)?,
    };
    let table = stopwatch.table(&spec, image_size, align, &sampling, &never, &mut note)?;
    trainer::write_atomically(out, serde_json::to_string_pretty(&table)?.as_bytes())?;
    Ok(Done::ok(text(&table, &spec)? + &format!("wrote       {}\n", out.display())))
}

/// Writes what another device times.
fn probes(args: &Args, spec: &NetSpec, image_size: u32, sampling: &Sampling) -> Result<Done> {
    let align = args.align.unwrap_or(1).into();
    let plan = Plan::of(spec, image_size, align, sampling)?;
    let path = args.probes.clone().unwrap_or_default();
    let mut bytes = Vec::new();
    let told = |done: usize, all: usize| {
        if done.is_multiple_of(50) || done == all {
            let _ = writeln!(std::io::stderr(), "{done} of {all} networks written");
        }
    };
    plan.write_probes(Cursor::new(&mut bytes), &path, told)?;
    trainer::write_atomically(&path, &bytes)?;
    let next = format!("python3 scripts/measure_times.py {} --out times.json", quoted(&path));
    Ok(Done::ok(format!("wrote       {}\nnext        on the device: {next}\n", path.display())))
}

/// The network without gates, and the side of its images.
fn network(source: &Source) -> Result<(NetSpec, u32)> {
    let (spec, size) = match (&source.checkpoint, &source.arch) {
        (Some(path), _) => {
            let checkpoint = Checkpoint::read(path)?;
            (checkpoint.spec, checkpoint.input.image_size)
        }
        (None, Some(name)) => {
            let classes = source.num_classes.unwrap_or(1000) as usize;
            (NetSpec::preset(name, classes)?, Preset::named(name)?.image_size)
        }
        (None, None) => bail!(Usage("which network? Give --arch NAME, --checkpoint FILE or --config FILE".into())),
    };
    Ok((without_gates(spec), size))
}

fn site(name: &str) -> Result<SiteKind> {
    Ok(match name {
        "input" => SiteKind::Input,
        "between" => SiteKind::Between,
        "output" => SiteKind::Output,
        "projection" => SiteKind::Projection,
        other => bail!(Usage(format!("--sites {other}: expected input, between, output or projection"))),
    })
}

fn text(found: &CostTable, spec: &NetSpec) -> Result<String> {
    let spending = found.spending(spec)?;
    let mut rows = vec![["block", "ms", "narrowest", "without branch"].map(str::to_owned).to_vec()];
    for entry in &found.blocks {
        let least = entry.grids.iter().flat_map(|grid| grid.costs.iter().copied()).fold(entry.open, f64::min);
        let copies = if entry.names.len() > 1 { format!(" ({} alike)", entry.names.len()) } else { String::new() };
        rows.push(vec![
            entry.names[0].clone() + &copies,
            format!("{:.3}", entry.open),
            format!("{least:.3}"),
            entry.closed.map_or(String::new(), |closed| format!("{closed:.3}")),
        ]);
    }
    Ok(format!(
        "{}\nnetwork     {:.3} ms, of which {:.3} outside the blocks\nwidths      multiples of {}\n",
        table(&rows),
        spending.dense(),
        found.outside,
        found.align
    ))
}

//! `train bench step`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::table::{bytes, percent, table};
use crate::usage::overrides;
use anyhow::Result;
use serde_json::{Value, json};
use trainer::{BenchedStep, Config, StepBench, StepTime};

/// Time training steps, gated and not
///
/// Every step is a whole one, on one and the same batch of drawn images: forward, losses, backward,
/// update. The variants take turns in one process, so that a machine that changes its pace changes
/// it for all of them. "host" is when the host had asked for everything: on a GPU about the whole
/// step if the host limits the pace. The parts are those of other steps, which wait for the device
/// in between. Memory is that of all variants together, after two steps to warm up; name a single
/// one to learn what it needs.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train bench step --arch resnet50 --gates none,layer,low --batch 16\n  train bench step --arch mobilenet_v2 --gates layer --batch 64 --set train.precision=bfloat16 --json"
)]
pub(crate) struct Step {
    /// Network
    #[arg(long, value_name = "NAME", default_value = "resnet50")]
    arch: String,
    /// Variants: none, layer, low, medium, high or a number of filters per gate; shares are of the
    /// first one's time
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "none,layer,low")]
    gates: Vec<String>,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    batch: u32,
    /// Timed steps of every variant
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Change one key of the configuration, such as train.precision=bfloat16 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Steps before those that count.
const WARM_UP: u32 = 2;
/// Steps that are timed in their parts, at most.
const IN_PARTS: u32 = 5;

/// What one variant took.
struct Timing {
    config: Config,
    gates: String,
    /// By their total, ascending.
    steps: Vec<BenchedStep>,
    /// The same.
    parts: Vec<StepTime>,
}

impl Timing {
    fn median(&self) -> BenchedStep {
        self.steps[self.steps.len() / 2]
    }

    /// Of a step in its parts.
    fn parts(&self) -> StepTime {
        self.parts[self.parts.len() / 2]
    }

    fn images_per_second(&self) -> f64 {
        self.config.train.batch_size as f64 / self.median().total
    }
}

pub(crate) fn step(args: &Step) -> Result<Done> {
    let device = args.device.resolve()?;
    let mut variants = Vec::new();
    for gates in &args.gates {
        let config = config(args, gates)?;
        let bench = StepBench::new(config.clone(), device)?;
        variants.push((bench, Timing { config, gates: gates.clone(), steps: Vec::new(), parts: Vec::new() }));
    }
    for round in 0..WARM_UP + args.rounds {
        if round == WARM_UP {
            torch_ext::restart_peak_memory(device);
        }
        for (bench, timing) in &mut variants {
            let time = bench.step()?;
            if round >= WARM_UP {
                timing.steps.push(time);
            }
        }
    }
    let memory = torch_ext::peak_tensor_memory(device);
    for _ in 0..args.rounds.min(IN_PARTS) {
        for (bench, timing) in &mut variants {
            timing.parts.push(bench.step_in_parts()?);
        }
    }
    let mut timings: Vec<Timing> = variants.into_iter().map(|(_, timing)| timing).collect();
    for timing in &mut timings {
        timing.steps.sort_by(|a, b| a.total.total_cmp(&b.total));
        timing.parts.sort_by(|a, b| a.total.total_cmp(&b.total));
    }
    Ok(Done::ok(if args.json { json(&timings, memory) } else { text(args, &timings, memory) }))
}

fn config(args: &Step, gates: &str) -> Result<Config> {
    let preset = arch::Preset::named(&args.arch)?;
    let mut keys = vec![
        ("network.arch".to_owned(), args.arch.clone()),
        ("gates.granularity".into(), gates.to_owned()),
        ("data.image_size".into(), preset.image_size.to_string()),
        ("data.resize".into(), preset.resize.to_string()),
        ("train.batch_size".into(), args.batch.to_string()),
    ];
    keys.extend(overrides(&args.set)?);
    Ok(trainer::config::parse("the command line", "", &keys)?)
}

fn text(args: &Step, timings: &[Timing], memory: Option<u64>) -> String {
    let heading =
        ["gates", "images/s", "step, median", "fastest to slowest", "share", "host", "forward", "backward", "update"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let first = timings[0].median().total;
    for timing in timings {
        let (median, parts) = (timing.median(), timing.parts());
        let last = timing.steps.len() - 1;
        let milliseconds = |seconds: f64| format!("{:.1} ms", 1000.0 * seconds);
        rows.push(vec![
            timing.gates.clone(),
            format!("{:.2}", timing.images_per_second()),
            milliseconds(median.total),
            format!("{:.1} to {:.1} ms", 1000.0 * timing.steps[0].total, 1000.0 * timing.steps[last].total),
            percent(median.total / first),
            milliseconds(median.host),
            milliseconds(parts.forward),
            milliseconds(parts.backward),
            milliseconds(parts.update),
        ]);
    }
    let memory = memory.map_or(String::new(), |memory| format!(", {} at the peak", bytes(memory)));
    let config = &timings[0].config;
    let rounds = args.rounds;
    let arch = &config.network.arch;
    let batch = config.train.batch_size;
    format!("{arch}, {batch} images a step, {rounds} steps of each{memory}\n\n{}", table(&rows))
}

fn json(timings: &[Timing], memory: Option<u64>) -> String {
    let variants: Vec<Value> = timings
        .iter()
        .map(|timing| {
            json!({
                "gates": timing.gates,
                "images_per_second": timing.images_per_second(),
                "median_seconds": timing.median().total,
                "host_seconds": timing.median().host,
                "parts": timing.parts(),
                "seconds": timing.steps.iter().map(|step| step.total).collect::<Vec<_>>(),
            })
        })
        .collect();
    let config = &timings[0].config;
    let arch = &config.network.arch;
    let batch = config.train.batch_size;
    let value = json!({ "arch": arch, "batch": batch, "peak_memory_bytes": memory, "variants": variants });
    format!("{value:#}\n")
}

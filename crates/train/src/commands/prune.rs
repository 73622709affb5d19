//! `train prune`

use crate::commands::runtime_worker::workers;
use crate::device::DeviceChoice;
use crate::done::{Done, note};
use crate::images::{Reading, refuse_share};
use crate::source::{Loaded, Source};
use crate::table::{grouped, macs, percent, table};
use crate::usage::{Usage, refuse_existing};
use anyhow::{Result, bail};
use arch::{Allocation, BlockSpec, Cost, CostTable, CutGates, Decision, NetSpec, Network, RepairedBlock};
use arch::{Shortcut, Site, Spending};
use data::Order;
use deploy::{best_alignment, without_gates};
use gumbel_gates::Policy;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::config::Weighting;
use trainer::{
    ActivationTarget, Checkpoint, GateObserver, ImagePass, Listener, Progress, Training, Unanimity,
    independent_decisions, repair,
};

/// Cut away gates that decide alike for every image, with what they close
///
/// Independent gates are always decided. Gates that look at the image are decided where they do the
/// same for all of the images in --data; the others stay conditional. The result is a checkpoint
/// like any other: it can be evaluated, fine-tuned (train fit --checkpoint), exported and pruned
/// again.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train prune --checkpoint runs/resnet50-filter/checkpoints/best.safetensors --out pruned.safetensors\n  train prune --checkpoint runs/resnet50-filter/checkpoints/best.safetensors --align auto --out aligned.safetensors\n  train prune --checkpoint masked.safetensors --repair --data /data/imagenet --out repaired.safetensors\n  train prune --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --data /data/imagenet --share 0.99 --out pruned.safetensors"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// The checkpoint to write; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder in ImageNet layout, to watch gates that look at the image; with --repair any images;
    /// its train/ is used, or the folder itself
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How gates decide: argmax, threshold=P or topk=K
    #[arg(long, value_name = "POLICY", default_value = "argmax")]
    policy: Policy,
    /// Give each site of filters a multiple of N channels near what is decided, within the same
    /// MACs: runtimes compute those fastest. Other gates are open than decided, so logits change.
    /// "auto" measures what ONNX Runtime computes well on this machine
    #[arg(long, value_name = "N|auto", value_parser = multiple)]
    align: Option<Multiple>,
    /// With --align, keep what is decided and the logits: sites get filters of zeros up to a
    /// multiple, for more MACs
    #[arg(long, requires = "align")]
    pad: bool,
    /// Solve the convolutions that lost inputs again over images of --data, so that each block
    /// gives what it gives with all gates open: for networks that are not trained on. Labels are
    /// not looked at; for gates that ignore the image
    #[arg(long, requires = "data", conflicts_with_all = ["pad", "share", "confidence"])]
    repair: bool,
    /// With --repair, how many images
    #[arg(long, value_name = "N", default_value_t = 768, value_parser = clap::value_parser!(u32).range(1..=1_000_000), requires = "repair")]
    repair_images: u32,
    /// Share of the images of --data that must agree, above 0.5
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    share: f64,
    /// Least probability of a decision for an image to agree [default: every decision counts]
    #[arg(long, value_name = "P")]
    confidence: Option<f64>,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    #[command(flatten)]
    reading: Reading,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Multiples of channels.
#[derive(Debug, Clone, Copy)]
enum Multiple {
    Auto,
    Of(usize),
}

fn multiple(text: &str) -> Result<Multiple, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Multiple::Auto),
        Ok(channels @ 2..=512) => Ok(Multiple::Of(channels)),
        _ => Err("expected auto, or 2 to 512 channels".to_owned()),
    }
}

pub(crate) fn run(args: Args) -> Result<Done> {
    args.reading.check()?;
    refuse_share("--confidence", args.confidence.unwrap_or(0.0))?;
    if !(args.share > 0.5 && args.share <= 1.0) {
        bail!(Usage("--share: expected a share above 0.5, up to 1".into()));
    }
    if matches!(args.policy, Policy::Sample { .. } | Policy::AlwaysOpen) {
        bail!(Usage(format!(
            "--policy {}: a policy that decides is needed: argmax, threshold=P or topk=K",
            args.policy
        )));
    }
    refuse_existing(&args.out)?;
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let gates = loaded.network.spec().gate_count();
    if gates == 0 {
        let why = match loaded.cut() {
            Some(_) => "its gates were cut out of it when they froze (gates.cut_when_frozen): it is pruned already",
            None => "it has no gates, so there is nothing to decide and nothing to prune",
        };
        bail!("{}: {why}", loaded.name);
    }
    let dependent = loaded.network.spec().has_dependent_gates();
    if dependent && args.policy.ranks() {
        bail!(Usage(format!(
            "--policy {}: gates that look at the image are ranked anew for each; decide them by argmax or threshold=P",
            args.policy
        )));
    }
    if args.align.is_some() && !args.pad && args.data.is_some() && !args.repair {
        bail!(Usage("--align decides anew about gates that ignore the image; with --data give --pad too".into()));
    }
    if dependent && args.align.is_some() && !args.pad {
        bail!(Usage("--align is for gates that ignore the image; these decide for each image by itself".into()));
    }
    if args.repair && dependent {
        bail!(Usage(
            "--repair is for gates that ignore the image: the others stay, and what they let through varies".into()
        ));
    }
    let mut sites = loaded.network.spec().gate_sites();
    if args.align.is_some() && sites.all(|(_, gates)| gates.site == Site::Layer) {
        bail!(Usage("--align is for gates of filters: layers have no widths".into()));
    }
    let size = loaded.input.image_size as usize;
    let align = match args.align {
        None => 1,
        Some(Multiple::Of(channels)) => channels,
        Some(Multiple::Auto) => {
            let spec = without_gates(loaded.network.spec().clone());
            best_alignment(workers(), &spec, loaded.input.image_size, &AtomicBool::new(false), &mut note)?
        }
    };
    let mut decisions = decisions(&args, &loaded)?;
    if align > 1 && !args.pad {
        decisions = aligned(&decisions, &loaded, align)?;
    }
    if decisions.iter().all(|decision| *decision == Decision::Undecided) {
        let hint = match args.data {
            None => "they look at the image: give --data DIR to see which of them always decide alike",
            Some(_) => {
                "none of them decides alike for enough of the images: lower --share or --confidence, or train longer"
            }
        };
        bail!("the {gates} gates of {} are undecided, so there is nothing to prune; {hint}", loaded.name);
    }
    let padded = if args.pad { align } else { 1 };
    let pruned = loaded.network.prune_padded(&decisions, padded)?;
    let added = match padded {
        1 => None,
        _ => Some(Cost::of(loaded.network.prune(&decisions)?.spec(), size, size)?.dense),
    };
    let costs = [Cost::of(loaded.network.spec(), size, size)?, Cost::of(pruned.spec(), size, size)?];
    let repaired = if args.repair { Some(repaired(&args, &loaded, &pruned, &decisions)?) } else { None };
    let training = loaded.training.map(|mut training| {
        training.forget_results();
        let [before, after] = counted(&training, [loaded.network.spec(), pruned.spec()], &costs);
        training.keep_budget(&decisions, &before, &after);
        let left = |name: &str| pruned.spec().blocks.iter().any(|block| block.name == name);
        if let ActivationTarget::PerBlock(targets) = &mut training.config.gates.target {
            let mut blocks = loaded.network.spec().blocks.iter();
            targets.retain(|_| blocks.next().is_none_or(|block| left(&block.name)));
        }
        training
    });
    Checkpoint::write(&args.out, &pruned, &loaded.classes, loaded.input, training.as_ref())?;
    let networks = [&loaded.network, &pruned];
    let added = added.map(|without| costs[1].dense.saturating_sub(without));
    let told = Told { networks, costs: &costs, decisions: &decisions, added, repaired: repaired.as_deref() };
    let text = if args.json { json(&told) } else { text(&told, &args) };
    Ok(Done::ok(text))
}

/// What the budget of a network counts, before and after: by a table of costs, if it is still
/// there.
fn counted(training: &Training, specs: [&NetSpec; 2], costs: &[Cost; 2]) -> [Spending; 2] {
    let gates = &training.config.gates;
    let table =
        gates.times.as_ref().filter(|_| gates.weighting == Weighting::CostTable).map(|path| CostTable::read(path));
    let of_table = |table: CostTable| -> arch::Result<_> { Ok([table.spending(specs[0])?, table.spending(specs[1])?]) };
    match table.map(|table| table.and_then(of_table)) {
        Some(Ok(spendings)) => return spendings,
        Some(Err(error)) => {
            let _ = writeln!(
                std::io::stderr(),
                "{error}; how much of the target the smaller network may use is reckoned by its MACs instead"
            );
        }
        None => {}
    }
    [costs[0].spending(), costs[1].spending()]
}

fn decisions(args: &Args, loaded: &Loaded) -> Result<Vec<Decision>> {
    let input = loaded.input;
    let network = &loaded.network;
    let watched = args.data.as_ref().filter(|_| !args.repair);
    let Some(data) = watched else {
        return Ok(independent_decisions(network, args.policy, input.image_size)?);
    };
    let batch_size = args.batch_size as usize;
    let loader = args.reading.loader(loaded, data, "train", input.transform(), Order::InOrder, batch_size)?;
    let observer = GateObserver {
        network,
        pass: ImagePass::once(&loader, input.image_size, network.device(), args.reading.max_bad_share),
        policy: args.policy,
        unanimity: Unanimity { share: args.share, confidence: args.confidence },
    };
    let cost = Cost::of(network.spec(), input.image_size as usize, input.image_size as usize)?;
    let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(&cost, 0))];
    // Nothing sets the flag: a signal simply ends the program, and nothing was written.
    let observed = observer.run(&mut progress, &AtomicBool::new(false))?;
    // A low probability of a gate that ignores the image is a decision all the same.
    let independent = independent_decisions(network, args.policy, input.image_size)?;
    let decide = |(own, observed): (Decision, Decision)| if own == Decision::Undecided { observed } else { own };
    Ok(independent.into_iter().zip(observed).map(decide).collect())
}

/// Solves the convolutions of the pruned network again that lost inputs.
fn repaired(args: &Args, loaded: &Loaded, pruned: &Network, decisions: &[Decision]) -> Result<Vec<RepairedBlock>> {
    let Some(data) = &args.data else { return Ok(Vec::new()) };
    let input = loaded.input;
    let loader = args.reading.any_images(data, input, args.batch_size as usize)?;
    let pass = ImagePass::once(&loader, input.image_size, pruned.device(), args.reading.max_bad_share);
    let images = args.repair_images as usize;
    let open = decisions.iter().map(|decision| *decision == Decision::Open).collect();
    let cut = CutGates { spec: loaded.network.spec().clone(), open };
    let cost = Cost::of(pruned.spec(), input.image_size as usize, input.image_size as usize)?;
    let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(&cost, 0))];
    // Nothing sets the flag: a signal simply ends the program, and nothing was written.
    Ok(repair(pruned, &loaded.network, &cut, (&pass, images), &mut progress, &AtomicBool::new(false))?)
}

/// Decisions of the same MACs that leave multiples of `align` channels, by the gates'
/// probabilities.
fn aligned(decisions: &[Decision], loaded: &Loaded, align: usize) -> Result<Vec<Decision>> {
    let network = &loaded.network;
    let size = loaded.input.image_size as usize;
    let cost = Cost::of(network.spec(), size, size)?;
    let open: Vec<bool> = decisions.iter().map(|decision| *decision == Decision::Open).collect();
    let spending = cost.spending();
    // Gates count what is left of a dead branch, which pruning takes away.
    let left = Cost::of(network.prune(decisions)?.spec(), size, size)?.dense as f64;
    let budget = spending.of_gates(&open)?.min(left);
    let margins = network.independent_margins()?;
    let probability = |margin: Option<f32>| 1.0 / (1.0 + (-f64::from(margin.unwrap_or_default())).exp());
    let scores: Vec<f64> = margins.into_iter().map(probability).collect();
    let open = Allocation { spending: &spending, decided: &open, scores: &scores, align, budget }.open()?;
    Ok(open.into_iter().map(|open| if open { Decision::Open } else { Decision::Closed }).collect())
}

/// Filters of a block's convolutions.
fn filters(block: &BlockSpec) -> usize {
    let shortcut = match &block.shortcut {
        Shortcut::Projection(conv) => conv.outputs,
        Shortcut::None | Shortcut::Identity | Shortcut::ZeroPadded { .. } => 0,
    };
    block.branch.iter().map(|conv| conv.outputs).sum::<usize>() + shortcut
}

/// Filters, parameters and MACs of a block, 0 for one that vanished.
fn of_block(network: &Network, cost: &Cost, name: &str) -> [u64; 3] {
    let blocks = network.spec().blocks.iter().zip(&cost.blocks);
    let found = blocks.into_iter().find(|(block, _)| block.name == name);
    found.map_or([0; 3], |(block, cost)| [filters(block) as u64, cost.parameters, cost.macs()])
}

fn count(decisions: &[Decision], wanted: Decision) -> usize {
    decisions.iter().filter(|decision| **decision == wanted).count()
}

/// What was cut, to be told.
struct Told<'a> {
    /// Before and after.
    networks: [&'a Network; 2],
    costs: &'a [Cost; 2],
    decisions: &'a [Decision],
    /// MACs of filters of zeros.
    added: Option<u64>,
    repaired: Option<&'a [RepairedBlock]>,
}

fn text(told: &Told, args: &Args) -> String {
    let Told { networks: [before, after], costs, decisions, added, repaired } = *told;
    let mut rows = vec![["block", "filters", "left", "parameters", "left", "MACs", "left"].map(str::to_owned).to_vec()];
    for block in &before.spec().blocks {
        let [old, new] = [of_block(before, &costs[0], &block.name), of_block(after, &costs[1], &block.name)];
        rows.push(vec![
            block.name.clone(),
            grouped(old[0]),
            grouped(new[0]),
            grouped(old[1]),
            grouped(new[1]),
            macs(old[2] as f64),
            macs(new[2] as f64),
        ]);
    }
    let share = |old: u64, new: u64| percent(new as f64 / old.max(1) as f64);
    let [old, new] = costs;
    let [open, closed, undecided] =
        [Decision::Open, Decision::Closed, Decision::Undecided].map(|wanted| count(decisions, wanted));
    let policy = match args.policy {
        Policy::Threshold(_) if undecided > 0 => format!("; use them with --policy {}", args.policy),
        _ => String::new(),
    };
    let padding = match added {
        Some(added) => format!(", of which {} of zeros that pad widths", macs(added as f64)),
        None => String::new(),
    };
    let nothing = match old.dense == new.dense && undecided > 0 {
        true => {
            "nothing was cut away; what gates that look at the image close is left out as the network runs: train export --mode skip\n"
        }
        false => "",
    };
    format!(
        "{}{}\ngates       {open} decided open, {closed} closed, {undecided} undecided: they stay{policy}\n\
         parameters  {} of {}, {}\nMACs        {} of {}, {}{padding}\n{nothing}wrote       {}\n",
        table(&rows),
        repaired.map(repairs).unwrap_or_default(),
        grouped(new.parameters),
        grouped(old.parameters),
        share(old.parameters, new.parameters),
        macs(new.dense as f64),
        macs(old.dense as f64),
        share(old.dense, new.dense),
        args.out.display()
    )
}

/// How far each block is from what it should give.
fn repairs(repaired: &[RepairedBlock]) -> String {
    let mut rows = vec![["block", "features off", "repaired"].map(str::to_owned).to_vec()];
    let row = |block: &RepairedBlock| vec![block.name.clone(), percent(block.before), percent(block.after)];
    rows.extend(repaired.iter().map(row));
    format!(
        "\n{}(mean squared error behind a block, as a share of the variance of what it should give)\n",
        table(&rows)
    )
}

fn json(told: &Told) -> String {
    let Told { networks: [before, after], costs, decisions, added, repaired } = *told;
    let side =
        |[filters, parameters, macs]: [u64; 3]| json!({ "filters": filters, "parameters": parameters, "macs": macs });
    let blocks: Vec<_> = before
        .spec()
        .blocks
        .iter()
        .map(|block| {
            json!({
                "name": block.name,
                "before": side(of_block(before, &costs[0], &block.name)),
                "after": side(of_block(after, &costs[1], &block.name)),
            })
        })
        .collect();
    let value = json!({
        "gates": {
            "open": count(decisions, Decision::Open),
            "closed": count(decisions, Decision::Closed),
            "undecided": count(decisions, Decision::Undecided),
        },
        "parameters": { "before": costs[0].parameters, "after": costs[1].parameters },
        "macs": { "before": costs[0].dense, "after": costs[1].dense },
        "macs_of_padding": added,
        "repaired": repaired.map(|repaired| {
            let block = |block: &RepairedBlock| json!({ "block": block.name, "before": block.before, "after": block.after });
            repaired.iter().map(block).collect::<Vec<_>>()
        }),
        "blocks": blocks,
    });
    format!("{value:#}\n")
}

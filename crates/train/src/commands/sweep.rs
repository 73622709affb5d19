//! `train sweep`

use crate::commands::report::write_report;
use crate::commands::shrink::{STOPPED, STOPPING, Work, checked, interrupted};
use crate::done::{Done, note};
use crate::signals::stop_on_signals;
use crate::table::{macs, percent, table};
use crate::usage::quoted;
use anyhow::Result;
use deploy::report::{Found, PAGE, write};
use deploy::shrink::{Budget, Shrunk};
use std::path::{Path, PathBuf};

/// Shrink a network to several budgets: accuracy against MACs or time
///
/// One shrink for each budget, one after the other, in a folder each; what is measured of the dense
/// network is shared. Writes sweep.csv and a page with accuracy against MACs and against time. The
/// same command goes on where it was stopped; more budgets can be added to it.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train sweep --arch resnet50 --weights weights/resnet50.pth --data /data/imagenet --macs 0.8,0.65,0.5,0.35 --out runs/sweep\n  train sweep --checkpoint mine.safetensors --data DIR --time 0.8,0.6 --no-train --out runs/sweep"
)]
pub(crate) struct Args {
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    budgets: Budgets,
    /// Folder for everything
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What the smaller networks may spend.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Budgets {
    /// Shares of the dense network's MACs
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    macs: Vec<f64>,
    /// Shares of the dense network's time in --runtime
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    time: Vec<f64>,
}

/// The file that a sweep writes for other programs.
const CSV: &str = "sweep.csv";

pub(crate) fn run(args: &Args) -> Result<Done> {
    let macs = args.budgets.macs.iter().map(|&share| checked(Budget::Macs(share), "--macs"));
    let time = args.budgets.time.iter().map(|&share| checked(Budget::Time(share), "--time"));
    let budgets = macs.chain(time).collect::<Result<Vec<_>>>()?;
    let interrupt = stop_on_signals(STOPPING, STOPPED)?;
    let folder = |budget: &Budget| args.out.join(format!("{}-{}", budget.of().to_lowercase(), budget.share()));
    let first = budgets.first().map(folder);
    let mut all: Vec<(Budget, Shrunk)> = Vec::new();
    for (number, budget) in budgets.iter().enumerate() {
        note(&format!("budget {} of {}: {budget}", number + 1, budgets.len()));
        let out = folder(budget);
        let like = first.as_deref().filter(|first| *first != out);
        let shrunk = args.work.shrinking(*budget, Some(&out), like, &interrupt, |shrinking, out| {
            let shrunk = shrinking.finish(&|fit| fit.listeners())?;
            write_report(out);
            Ok(shrunk)
        })?;
        let Some(shrunk) = shrunk else { return Ok(interrupted()) };
        all.push((*budget, shrunk));
    }
    let found = budgets.iter().map(|budget| Found::read(&folder(budget))).collect::<Result<Vec<_>, _>>()?;
    let page = args.out.join(PAGE);
    write(&found, &page)?;
    let csv = args.out.join(CSV);
    trainer::write_atomically(&csv, lines(&all).as_bytes())?;
    Ok(Done::ok(text(&all, &csv, &page)))
}

fn lines(all: &[(Budget, Shrunk)]) -> String {
    let mut text = "of,budget,top1,top1_dense,macs,macs_dense,ms,ms_dense\n".to_owned();
    for (budget, Shrunk { dense, small, .. }) in all {
        let ms = [small, dense].map(|side| side.time.map_or(String::new(), |time| format!("{:.4}", time.median)));
        let [of, share] = [budget.of().to_lowercase(), budget.share().to_string()];
        let (top1, top1_dense) = (small.top1, dense.top1);
        text += &format!("{of},{share},{top1},{top1_dense},{:.0},{:.0},{},{}\n", small.macs, dense.macs, ms[0], ms[1]);
    }
    text
}

fn text(all: &[(Budget, Shrunk)], csv: &Path, page: &Path) -> String {
    let mut rows = vec![["budget", "top-1", "MACs", "of dense", "time", "of dense"].map(str::to_owned).to_vec()];
    if let Some((_, Shrunk { dense, .. })) = all.first() {
        let time = dense.time.map_or(String::new(), |time| format!("{:.2} ms", time.median));
        rows.push(vec!["dense".into(), percent(dense.top1), macs(dense.macs), percent(1.0), time, percent(1.0)]);
    }
    for (budget, shrunk) in all {
        let Shrunk { dense, small, .. } = shrunk;
        rows.push(vec![
            budget.to_string(),
            percent(small.top1),
            macs(small.macs),
            percent(small.macs / dense.macs.max(1.0)),
            small.time.map_or(String::new(), |time| format!("{:.2} ms", time.median)),
            shrunk.time_share().map_or(String::new(), percent),
        ]);
    }
    format!("{}\nwrote       {}\n            {}\n", table(&rows), quoted(csv), quoted(page))
}

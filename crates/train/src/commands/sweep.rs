//! `train sweep`

use crate::commands::report::write_report;
use crate::commands::shrink::{STOPPED, STOPPING, Work, checked, interrupted};
use crate::done::{Done, note};
use crate::signals::stop_on_signals;
use crate::table::{macs, percent, table};
use crate::usage::{Usage, quoted};
use anyhow::{Result, bail};
use deploy::report::{FIGURES, Found, PAGE, write};
use deploy::shrink::{Budget, PLAN, Plan, Shrunk};
use std::fs;
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

/// The file that a sweep writes for other programs, and its first line.
const CSV: &str = "sweep.csv";
const HEADING: &str = "of,budget,top1,top1_dense,macs,macs_dense,ms,ms_dense\n";

pub(crate) fn run(args: &Args) -> Result<Done> {
    let macs = args.budgets.macs.iter().map(|&share| checked(Budget::Macs(share), "--macs"));
    let time = args.budgets.time.iter().map(|&share| checked(Budget::Time(share), "--time"));
    let budgets = macs.chain(time).collect::<Result<Vec<_>>>()?;
    let mut budgets = budgets;
    let mut seen = Vec::new();
    budgets.retain(|budget| {
        !seen.contains(budget) && {
            seen.push(*budget);
            true
        }
    });
    claim(&args.out)?;
    let interrupt = stop_on_signals(STOPPING, STOPPED)?;
    let folder = |budget: &Budget| args.out.join(format!("{}-{}", budget.of().to_lowercase(), budget.share()));
    let mut all: Vec<(Budget, Shrunk)> = Vec::new();
    let mut failed = String::new();
    for (number, budget) in budgets.iter().enumerate() {
        note(&format!("budget {} of {}: {budget}", number + 1, budgets.len()));
        let out = folder(budget);
        // Any that was begun has measured the dense network.
        let like = budgets.iter().map(folder).find(|other| *other != out && other.join(PLAN).exists());
        let shrunk = args.work.shrinking(*budget, Some(&out), like.as_deref(), &interrupt, |shrinking, out| {
            let shrunk = shrinking.finish()?;
            write_report(out);
            Ok(shrunk)
        });
        match shrunk {
            Ok(Some(shrunk)) => {
                for wrong in shrunk.misprediction().into_iter().chain(shrunk.excess(*budget)) {
                    note(&format!("WARNING: {wrong}"));
                }
                all.push((*budget, shrunk));
            }
            Ok(None) => return Ok(interrupted()),
            // The command line is wrong for all of them.
            Err(error) if number == 0 && error.is::<Usage>() => return Err(error),
            Err(error) => {
                note(&format!("{budget} failed: {error}"));
                failed += &format!("{budget} failed: {error}\n");
            }
        }
    }
    if all.is_empty() {
        bail!("no budget could be met:\n{}", failed.trim_end());
    }
    // Budgets of earlier calls stay.
    for entry in fs::read_dir(&args.out).into_iter().flatten().flatten() {
        let Some(plan) = Plan::read(&entry.path()).ok().flatten() else { continue };
        let budget = plan.asked.budget;
        if let Some(done) = plan.shrunk.filter(|_| !all.iter().any(|(known, _)| *known == budget)) {
            all.push((budget, done.found));
        }
    }
    all.sort_by(|(a, _), (b, _)| a.of().cmp(b.of()).then(b.share().total_cmp(&a.share())));
    let found = all.iter().map(|(budget, _)| Found::read(&folder(budget))).collect::<Result<Vec<_>, _>>()?;
    let page = args.out.join(PAGE);
    write(&found, &page, &args.out.join(FIGURES))?;
    let csv = args.out.join(CSV);
    trainer::write_atomically(&csv, lines(&all).as_bytes())?;
    let text = text(&all, &csv, &page);
    Ok(if failed.is_empty() { Done::ok(text) } else { Done::in_part(text, failed) })
}

/// Makes the folder of a sweep, or goes on in one: its CSV says that it is one.
fn claim(out: &Path) -> Result<()> {
    let csv = out.join(CSV);
    if csv.exists() {
        return Ok(());
    }
    let failed = |source| deploy::Error::File { path: out.to_owned(), source };
    if out.exists() && fs::read_dir(out).map_err(failed)?.next().is_some() {
        return Err(deploy::Error::Taken { path: out.to_owned() }.into());
    }
    fs::create_dir_all(out).map_err(failed)?;
    Ok(trainer::write_atomically(&csv, HEADING.as_bytes())?)
}

fn lines(all: &[(Budget, Shrunk)]) -> String {
    let mut text = HEADING.to_owned();
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
    format!(
        "{}\neach was timed in turn with the dense network, whose time above is that of the first\nwrote       {}\n            \
         {}\n",
        table(&rows),
        quoted(csv),
        quoted(page)
    )
}

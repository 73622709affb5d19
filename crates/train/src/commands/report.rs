//! `train report`

use crate::done::{Done, note};
use crate::usage::{Usage, quoted, refuse_existing};
use anyhow::{Result, bail};
use deploy::report::{FIGURES, Found, PAGE, write};
use std::fs;
use std::path::{Path, PathBuf};

/// Show what runs did: one page of pictures, or several runs side by side
///
/// The page is one HTML file that loads nothing, for screens, phones and paper; its pictures lie
/// beside it as SVG. Every fit and shrink writes its own at its end.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train report runs/resnet50-filter\n  train report runs/resnet50-macs-0.5 runs/resnet50-macs-0.7 --out compared/report.html"
)]
pub(crate) struct Args {
    /// Folders of runs, or of what shrink made
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write; must not exist [default: report.html in the folder of a single run]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<Done> {
    let (out, figures) = match (&args.out, args.runs.as_slice()) {
        (Some(out), _) => {
            let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists());
            parent.map(fs::create_dir_all).transpose()?;
            let mut beside = out.file_stem().unwrap_or_default().to_os_string();
            beside.push(format!("-{FIGURES}"));
            let figures = out.with_file_name(beside);
            refuse_existing(out)?;
            refuse_existing(&figures)?;
            (out.clone(), figures)
        }
        (None, [run]) => (run.join(PAGE), run.join(FIGURES)),
        (None, _) => bail!(Usage("several runs are compared on a page of their own: give --out FILE".into())),
    };
    let found = args.runs.iter().map(|run| Found::read(run)).collect::<Result<Vec<_>, _>>()?;
    write(&found, &out, &figures)?;
    Ok(Done::ok(format!("wrote       {}\npictures    {}\n", quoted(&out), quoted(&figures))))
}

/// The page of a run that has just ended, which is no reason for it to fail.
pub(crate) fn write_report(run: &Path) {
    let written = Found::read(run).and_then(|found| write(&[found], &run.join(PAGE), &run.join(FIGURES)));
    if let Err(error) = written {
        note(&format!("no report was written: {error}"));
    }
}

//! Where a command's images come from and how they are read.

use crate::source::Loaded;
use crate::usage::Usage;
use anyhow::{Result, bail};
use clap::Args;
use data::{Loader, LoaderOptions, Order, Source as _, Split, Transform};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trainer::Input;

/// A folder of images, named as other commands name theirs or without `--data`.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Folder {
    /// Folder of images (docs/data.md has the layouts)
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Folder {
    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.as_deref().or(self.data.as_deref()).unwrap_or(Path::new(""))
    }
}

#[derive(Args, Debug)]
pub(crate) struct Reading {
    /// Threads that decode; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
    /// Share of the images that may be unusable
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_bad_share: f64,
}

impl Reading {
    /// As without options.
    pub(crate) fn usual() -> Self {
        Self { threads: 0, max_bad_share: 0.01 }
    }

    /// The keys of a configuration that say the same, where they are not as without options.
    pub(crate) fn keys(&self) -> Vec<(String, String)> {
        let threads = (self.threads != 0).then(|| ("data.threads".to_owned(), self.threads.to_string()));
        let usual = Self::usual().max_bad_share;
        let share = (self.max_bad_share - usual).abs() > f64::EPSILON;
        let share = share.then(|| ("data.max_bad_share".to_owned(), self.max_bad_share.to_string()));
        threads.into_iter().chain(share).collect()
    }

    /// Refuses values out of range, before any work is done.
    pub(crate) fn check(&self) -> Result<()> {
        refuse_share("--max-bad-share", self.max_bad_share)
    }

    /// Batches of the images in the folder `split` of `data`, or in `data` itself if it has no such
    /// folder, prepared for `loaded`.
    pub(crate) fn loader(
        &self,
        loaded: &Loaded,
        data: &Path,
        split: &str,
        transform: Transform,
        order: Order,
        batch_size: usize,
    ) -> Result<Loader> {
        let folder = Split::folder(data, split).unwrap_or_else(|| data.to_owned());
        let split = Split::open_with_classes(&folder, loaded.named.then_some(&*loaded.classes))?;
        loaded.refuse_other_classes(&split)?;
        let (normalize, threads) = (loaded.input.normalize(), self.threads.into());
        let options = LoaderOptions { transform, normalize, order, batch_size, threads, ..Default::default() };
        Ok(Loader::new(Arc::new(split), options)?)
    }

    /// Shuffled batches of the images in the folder `train` of `data`, or in `data` itself if it
    /// has no such folder, whatever their classes, or without any; prepared as in an evaluation.
    pub(crate) fn any_images(&self, data: &Path, input: Input, batch_size: usize) -> Result<Loader> {
        let folder = Split::folder(data, "train").unwrap_or_else(|| data.to_owned());
        let split = match Split::open_with_classes(&folder, None) {
            Err(data::Error::LooseImages { .. }) => Split::of_files(data::images_below(&folder)?),
            split => split?,
        };
        let batch_size = batch_size.min(split.len());
        let (transform, normalize, threads) = (input.transform(), input.normalize(), self.threads.into());
        let order = Order::Shuffled(0);
        let options = LoaderOptions { transform, normalize, order, batch_size, threads, ..Default::default() };
        Ok(Loader::new(Arc::new(split), options)?)
    }
}

/// Refuses an option that is no share.
pub(crate) fn refuse_share(option: &str, share: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&share) {
        bail!(Usage(format!("{option}: expected a share from 0 to 1")));
    }
    Ok(())
}

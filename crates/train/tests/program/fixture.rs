//! What many tests look at: a small set of images and a run trained on it, each made once.

use crate::calls::{stderr, stdout, train};
use crate::support::path;
use data::synth::{SampleSet, draw};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

pub struct Fixture {
    _folder: TempDir,
    pub data: PathBuf,
    pub config: PathBuf,
    /// A finished run of two epochs.
    pub run: PathBuf,
    /// What the program printed at its end.
    pub printed: String,
}

/// One drawn set for all tests.
pub fn sample_set() -> &'static Path {
    static SET: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SET.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("data");
        let set = SampleSet { train_per_class: 4, val_per_class: 2, seed: 3 };
        draw(&path, &set).expect("the set is drawn");
        (folder, path)
    });
    path
}

/// A run trained on the drawn set.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = sample_set().to_owned();
        let config = folder.path().join("config.toml");
        fs::write(
            &config,
            "[network]\narch = \"resnet18\"\n[data]\nimage_size = 32\nresize = 36\n\
             [train]\nname = \"small\"\nepochs = 2\nbatch_size = 8\nlog_every = 2\n\
             [optimizer]\nlearning_rate = 0.02\n",
        )
        .expect("the configuration is written");
        let run = folder.path().join("run");
        let fit = ["fit", "--config", path(&config), "--data", path(&data), "--out", path(&run)];
        let output = train(&fit);
        assert!(output.status.success(), "{}", stderr(&output));
        let printed = stdout(&output);
        Fixture { _folder: folder, data, config, run, printed }
    })
}

/// The run's best state.
pub fn best() -> PathBuf {
    fixture().run.join("checkpoints/best.safetensors")
}

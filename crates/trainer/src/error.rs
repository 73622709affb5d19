//! What can go wrong in a run, and what is told of a step that left the finite numbers.

use crate::config::{ConfigError, Faults};
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A tensor could not be made or updated.
    #[error(transparent)]
    Tensors(#[from] torch_ext::Error),
    /// A gate or loss refused an operation.
    #[error(transparent)]
    Gates(#[from] gumbel_gates::Error),
    /// The network could not be made, loaded or run.
    #[error(transparent)]
    Network(#[from] arch::Error),
    /// The data set is unusable.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] Faults),
    /// The configuration has no form in TOML, so it could not be kept with the run.
    #[error("the configuration cannot be written as TOML: {0}")]
    UnwritableConfig(toml::ser::Error),
    /// Whoever started the work asked it to stop. Nothing failed: a run saves its state and ends as
    /// [`crate::Outcome::Interrupted`].
    #[error("interrupted")]
    Interrupted,
    /// A strategy samples no runs, or too many.
    #[error("'{strategy}': expected 1 to {most} runs")]
    Runs {
        /// The strategy, as text.
        strategy: String,
        /// The most that are run.
        most: usize,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder could not be written; what was there before is still there.
    #[error("cannot write {}{}: {source}{}", path.display(), size(*bytes), hint(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// How many bytes it needed, where that is known.
        bytes: Option<usize>,
        /// Why.
        source: std::io::Error,
    },
    /// The weights of a file do not fit, and it is a checkpoint, with a network of its own.
    #[error("{source}\n  {} is a checkpoint with a network of its own, pruned perhaps; give it as --checkpoint", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// How it does not fit.
        source: arch::Error,
    },
    /// A path cannot be kept in a configuration.
    #[error("the path {} is not valid UTF-8, so it cannot be written into config.toml; rename it or link to it", path.display())]
    PathNotText {
        /// The path.
        path: PathBuf,
    },
    /// The output folder is there already.
    #[error("{} exists; choose another --out, or continue that run with --resume", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process is at work in the run's folder.
    #[error("another process is training in {}; wait for it, or stop it first", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// There is no run to resume.
    #[error("nothing to resume: {} does not exist, nor does a config.toml that a run could begin with; start one without --resume", path.display())]
    NothingToResume {
        /// The checkpoint that is missing.
        path: PathBuf,
    },
    /// A resumed run was given another configuration.
    #[error("the configuration differs from the run's own: {}; to go on with the changes add --allow-changes, or start a new run with another --out", changes.join(", "))]
    ConfigChanged {
        /// The keys that differ, with both values.
        changes: Vec<String>,
    },
    /// A resumed run was given a configuration that it cannot go on with.
    #[error("a run cannot go on with another {what}: {}; start a new one with another --out, from this one's --weights if you like", changes.join(", "))]
    CannotChange {
        /// What would be another.
        what: &'static str,
        /// The keys that differ, with both values.
        changes: Vec<String>,
    },
    /// The table of costs in a run's folder is not the one it began with.
    #[error(
        "{} is not the table of costs that the run began with, so it cannot go on; put it back, or start a new run",
        path.display()
    )]
    TimesChanged {
        /// The table.
        path: PathBuf,
    },
    /// A resumed run was given other images.
    #[error("{} does not hold the files and labels the run began with ({before} training and validation images then, {now} now), so it cannot go on exactly; start a new run, with --weights {} if you like", path.display(), checkpoint.display())]
    DataChanged {
        /// The data folder.
        path: PathBuf,
        /// Images when the run began.
        before: usize,
        /// Images now.
        now: usize,
        /// The run's last checkpoint.
        checkpoint: PathBuf,
    },
    /// A file is not a checkpoint.
    #[error("{} is not a checkpoint of this program: {reason}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint's classes are not the data's.
    #[error("the network knows the classes {network} and {} holds {data}; both must have the same class folders", path.display())]
    OtherClasses {
        /// The data folder.
        path: PathBuf,
        /// The network's classes, shortened.
        network: String,
        /// The data's classes, shortened.
        data: String,
    },
    /// What a checkpoint says about its network cannot be written as JSON.
    #[error("the state cannot be described")]
    Description(#[source] serde_json::Error),
    /// A teacher cannot teach this run.
    #[error("the teacher {} (distillation.teacher) cannot be used: {reason}", path.display())]
    UnfitTeacher {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A network in which nothing is open is not exported.
    #[error(
        "every gate of the network is closed, so the export would ignore its images; train it longer, with a higher target or a lower loss factor, or export with another policy"
    )]
    AllClosed,
    /// Too many images of a split are bad.
    #[error("{bad} of the {images} images in {} cannot be used, more than the allowed share of {share} (data.max_bad_share, or --max-bad-share); the last one was {last}; `train data check` lists them all", path.display())]
    TooManyBadImages {
        /// The split's folder.
        path: PathBuf,
        /// Bad images so far.
        bad: usize,
        /// Images in the split.
        images: usize,
        /// The configured share.
        share: f64,
        /// The last bad image.
        last: String,
    },
    /// A run left the finite numbers.
    #[error(
        "{what} gave values that are not finite numbers: {diagnosis}; lower optimizer.learning_rate, lengthen schedule.warmup_epochs or set optimizer.clip_norm; nothing was saved since the last checkpoint"
    )]
    NotFinite {
        /// Which step, or what else.
        what: String,
        /// What was found.
        diagnosis: Box<Diagnosis>,
    },
    /// The training split cannot fill a batch that batch norm can learn from.
    #[error("{} has {images} usable images, too few for training; at least 2 are needed", path.display())]
    TooFewImages {
        /// The split's folder.
        path: PathBuf,
        /// How many there are.
        images: usize,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Read { path, source } => Self::Read { path, source },
            ConfigError::Faults(faults) => Self::Config(faults),
            ConfigError::Unwritable(error) => Self::UnwritableConfig(error),
        }
    }
}

/// Names of images that are told; the others are in a file.
const IMAGES_TOLD: usize = 3;

/// What went wrong in a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diagnosis {
    /// Steps done before it.
    pub step: u64,
    /// The first values that were not finite numbers, if some were found.
    pub first: Option<String>,
    /// Smallest and largest margin between the logits "open" and "closed" of all gates; absent
    /// without gates.
    pub margins: Option<(f64, f64)>,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The images of its batch.
    pub images: Vec<PathBuf>,
    /// The file in which they are all listed.
    pub list: Option<PathBuf>,
}

impl Display for Diagnosis {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match &self.first {
            Some(first) => write!(f, "the first values that are not finite numbers are {first}")?,
            None => write!(f, "a second look finds only finite numbers")?,
        }
        if let Some((least, most)) = self.margins {
            write!(f, "; the gates' margins between open and closed reach from {} to {}", short(least), short(most))?;
        }
        write!(f, "; the learning rate is {}", self.learning_rate)?;
        if !self.images.is_empty() {
            let told = self.images.iter().take(IMAGES_TOLD).map(|path| path.display().to_string()).collect::<Vec<_>>();
            write!(f, "; the batch holds {}", told.join(", "))?;
            if self.images.len() > IMAGES_TOLD {
                write!(f, " and {} more", self.images.len() - IMAGES_TOLD)?;
            }
            if let Some(list) = &self.list {
                write!(f, " (all in {})", list.display())?;
            }
        }
        Ok(())
    }
}

/// A number that may be of any size.
fn short(value: f64) -> String {
    if value.abs() < 1e4 { format!("{value:.3}") } else { format!("{value:.2e}") }
}

fn size(bytes: Option<usize>) -> String {
    bytes.map(|bytes| format!(" ({bytes} bytes)")).unwrap_or_default()
}

fn hint(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match source.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => "; free some space, or choose another place",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_reads_as_a_sentence() {
        let images = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"].map(PathBuf::from).to_vec();
        let diagnosis = Diagnosis {
            step: 7,
            first: Some("the features behind layer1.0".into()),
            margins: Some((-1.0, 2.5e9)),
            learning_rate: 0.1,
            images,
            list: Some("runs/x/images-of-step-7.txt".into()),
        };
        assert_eq!(
            diagnosis.to_string(),
            "the first values that are not finite numbers are the features behind layer1.0; the gates' margins between open and \
             closed reach from -1.000 to 2.50e9; the learning rate is 0.1; the batch holds a.jpg, b.jpg, c.jpg and 1 more (all in \
             runs/x/images-of-step-7.txt)"
        );
    }
}

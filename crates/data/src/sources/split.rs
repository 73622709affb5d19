//! What a split is: the images of one folder with their labels, however they were found.

use crate::image_file::read_file;
use crate::sampler;
use crate::source::Source;
use crate::sources::chunks::Shards;
use crate::sources::names::Names;
use std::io;
use std::path::{Path, PathBuf};

/// The images of one folder, in memory at well below 150 bytes each.
#[derive(Debug)]
pub struct Split {
    /// The folder; paths are given below it.
    pub(crate) root: PathBuf,
    /// Class names, by label.
    pub(crate) classes: Vec<String>,
    /// Label of every image.
    pub(crate) labels: Vec<u32>,
    /// Path below the root of every image; in a shard, below the shard.
    pub(crate) names: Names,
    /// Where the images are in tar files, if they are.
    pub(crate) shards: Option<Shards>,
    /// Files that are no images, or have no label.
    pub(crate) ignored: usize,
    /// Those of them that are images beside class folders.
    pub(crate) loose: usize,
}

impl Split {
    /// Files by themselves, of which the classes are not known.
    pub fn of_files<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Self {
        let mut names = Names::default();
        files.into_iter().for_each(|file| names.push(file.as_ref()));
        let root = PathBuf::new();
        let labels = vec![0; names.len()];
        Self { root, classes: vec!["unknown".into()], labels, names, shards: None, ignored: 0, loose: 0 }
    }

    /// What to know about it, for a log: what was left out.
    pub fn note(&self) -> Option<String> {
        let root = self.root.display();
        let ignored = self.ignored;
        let loose = match self.loose {
            0 => String::new(),
            loose => format!("; {loose} of them are images that lie directly in {root}, in no class folder"),
        };
        (ignored > 0)
            .then(|| format!("{root}: {ignored} files that are no images, or have no label, are left out{loose}"))
    }

    /// Number of files in it that are left out: no images by their names, or without a label.
    pub fn ignored(&self) -> usize {
        self.ignored
    }
}

impl Source for Split {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.names.len()
    }

    fn label(&self, image: usize) -> usize {
        self.labels[image] as usize
    }

    fn location(&self) -> &Path {
        &self.root
    }

    fn name(&self, image: usize) -> PathBuf {
        match &self.shards {
            None => self.names.get(image).to_owned(),
            Some(shards) => shards.file_of(image).join(self.names.get(image)),
        }
    }

    fn read(&self, image: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        match &self.shards {
            None => read_file(&self.path(image), bytes),
            Some(shards) => shards.read(image, bytes),
        }
    }

    fn shuffled(&self, seed: u64, epoch: u64) -> Vec<u32> {
        match &self.shards {
            None => sampler::shuffled(self.len(), seed, epoch),
            Some(shards) => shards.shuffled(seed, epoch),
        }
    }
}

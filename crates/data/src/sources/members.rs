//! The images of one tar file with their classes, as WebDataset and others pack them.

use crate::error::{Error, Result};
use crate::image_file::{MOST_BYTES_OF_A_FILE, is_image};
use crate::sources::archives::{self, Compression, MAGIC_BYTES};
use crate::sources::class_names::readable;
use crate::sources::pairing::{Pairing, Told, plain};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Links that lead to one another are followed so far, as the file system does.
const MOST_LINKS: usize = 40;
/// More bytes than the name of a class has.
const MOST_BYTES_OF_A_CLASS: u64 = 1024;

/// One image of a shard: its name in it, its place, and its class.
pub(crate) struct Member {
    pub name: PathBuf,
    pub start: u64,
    pub length: u32,
    pub class: String,
    /// Whether the class is that of a member beside it.
    pub told: bool,
}

/// What a tar file says of one of its members.
struct Entry {
    name: PathBuf,
    content: Content,
}

enum Content {
    /// First byte and length.
    At(u64, u64),
    /// What a member of this name held when the link was packed.
    HardLink(PathBuf),
    /// What the member of this name holds.
    SymbolicLink(PathBuf),
}

/// The images of one tar file in the order of their bytes, and the number of members left out.
pub(crate) fn members(path: &Path) -> Result<(Vec<Member>, usize)> {
    Shard { path }.members()
}

/// A tar file that is being read.
struct Shard<'a> {
    path: &'a Path,
}

impl Shard<'_> {
    fn members(&self) -> Result<(Vec<Member>, usize)> {
        let read = |source| Error::Read { path: self.path.to_owned(), source };
        let mut file = File::open(self.path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        self.refuse_compressed(&mut file)?;
        let (entries, mut ignored, texts) = self.scan(&file)?;
        let places = places(&entries);
        let (mut images, mut classes, mut inner) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, place) in entries.iter().zip(places) {
            let Some((start, length)) = place.filter(|_| !is_hidden(&entry.name)) else {
                ignored += 1;
                continue;
            };
            if is_class(&entry.name) {
                let text = match texts.get(&start) {
                    Some(text) => text.clone(),
                    None => self.text_at(&entry.name, &file, start, length)?,
                };
                classes.push((&*entry.name, text));
            } else if is_image(&entry.name) {
                images.push((&*entry.name, start, self.image_length(&entry.name, start, length, size)?));
            } else {
                ignored += 1;
                inner.extend(archives::is_tar(&entry.name).then(|| entry.name.display().to_string()));
            }
        }
        if images.is_empty() && !inner.is_empty() {
            let command = archives::unpack_inner(self.path);
            return Err(Error::NestedShard { path: self.path.to_owned(), inner, command });
        }
        // Links lie elsewhere than what they lead to; images are read from the front to the back.
        images.sort_by_key(|&(_, start, _)| start);
        let with_classes = self.with_classes(&images, &classes)?;
        ignored += images.len() - with_classes.len();
        Ok((with_classes, ignored))
    }

    fn bad(&self, reason: impl ToString) -> Error {
        Error::BadShard { path: self.path.to_owned(), reason: reason.to_string() }
    }

    fn refuse_compressed(&self, file: &mut File) -> Result<()> {
        let mut start = Vec::new();
        file.take(MAGIC_BYTES as u64).read_to_end(&mut start).map_err(|error| self.bad(error))?;
        file.rewind().map_err(|error| self.bad(error))?;
        match Compression::of_content(&start) {
            None => Ok(()),
            Some(compression) => Err(Error::CompressedShard {
                path: self.path.to_owned(),
                compression: compression.name,
                command: compression.unpack_misnamed(self.path),
            }),
        }
    }

    /// All files and links, the number of other members but folders, and the texts of class members
    /// by where they begin.
    fn scan(&self, file: &File) -> Result<(Vec<Entry>, usize, HashMap<u64, String>)> {
        let bad = |error: io::Error| self.bad(error);
        let mut archive = tar::Archive::new(file);
        let (mut entries, mut others, mut texts) = (Vec::new(), 0, HashMap::new());
        for entry in archive.entries_with_seek().map_err(bad)? {
            let mut entry = entry.map_err(bad)?;
            let kind = entry.header().entry_type();
            let name = entry.path().map_err(bad)?.into_owned();
            let target = entry.link_name().map_err(bad)?.map(std::borrow::Cow::into_owned).unwrap_or_default();
            let content = if kind.is_file() {
                let (start, length) = (entry.raw_file_position(), entry.size());
                if is_class(&name) && !is_hidden(&name) {
                    texts.insert(start, self.text(&name, &mut entry)?);
                }
                Content::At(start, length)
            } else if kind.is_hard_link() {
                Content::HardLink(target)
            } else if kind.is_symlink() {
                Content::SymbolicLink(target)
            } else {
                others += usize::from(!kind.is_dir() && !kind.is_pax_global_extensions());
                continue;
            };
            entries.push(Entry { name, content });
        }
        Ok((entries, others, texts))
    }

    /// What the class member `name` says.
    fn text(&self, name: &Path, content: impl Read) -> Result<String> {
        let told = |reason: &dyn ToString| self.bad(format!("{}: {}", name.display(), reason.to_string()));
        let mut text = String::new();
        content.take(MOST_BYTES_OF_A_CLASS).read_to_string(&mut text).map_err(|error| told(&error))?;
        match text.trim() {
            "" => Err(told(&"it names no class")),
            class => Ok(class.to_owned()),
        }
    }

    /// The same for a link to a member of another kind.
    fn text_at(&self, name: &Path, mut file: &File, start: u64, length: u64) -> Result<String> {
        file.seek(SeekFrom::Start(start)).map_err(|error| self.bad(error))?;
        self.text(name, file.take(length))
    }

    /// The length of an image, if it is one that can be read.
    fn image_length(&self, name: &Path, start: u64, length: u64, size: u64) -> Result<u32> {
        if start.saturating_add(length) > size {
            return Err(self.bad(format!("it ends within {}", name.display())));
        }
        if length > MOST_BYTES_OF_A_FILE {
            return Err(self.bad(format!("the {length} bytes of {} are more than an image has", name.display())));
        }
        Ok(length as u32)
    }

    /// The images with their classes: told by a member, else by the folder they lie in. Other images
    /// of a sample are left out.
    fn with_classes(&self, images: &[(&Path, u64, u32)], classes: &[(&Path, String)]) -> Result<Vec<Member>> {
        let names: Vec<&Path> = classes.iter().map(|(name, _)| *name).collect();
        let pairing = Pairing::new(images.iter().map(|(name, ..)| *name), &names);
        let mut members = Vec::new();
        for &(name, start, length) in images {
            let path = self.path.to_owned();
            let image = || name.display().to_string();
            let wanted = || name.with_extension("cls").display().to_string();
            let (class, told) = match pairing.of(name) {
                Told::By(class) => (Some(classes[class].1.clone()), true),
                Told::Nowhere => (name.parent().and_then(Path::file_name).map(readable), false),
                Told::OtherImage => continue,
                Told::Uncertain(of) => {
                    let members = of.into_iter().map(|class| names[class].display().to_string()).collect();
                    return Err(Error::AmbiguousClass { path, image: image(), members, wanted: wanted() });
                }
            };
            let Some(class) = class else {
                let (image, wanted) = (image(), wanted());
                if !classes.is_empty() {
                    return Err(self.bad(format!("{image} has no class; expected a member {wanted} or a class folder")));
                }
                let command = archives::unpack_each(self.path.parent().unwrap_or(Path::new("")));
                return Err(Error::ShardWithoutClasses { path, image, wanted, command });
            };
            members.push(Member { name: name.to_owned(), start, length, class, told });
        }
        Ok(members)
    }
}

/// Whether a member tells a class.
fn is_class(name: &Path) -> bool {
    name.extension().is_some_and(|ending| ending == "cls")
}

fn is_hidden(name: &Path) -> bool {
    name.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Where the bytes of each entry lie; of one that a later entry of the same name replaces, and of a
/// link to what is no file of this tar file, nowhere.
fn places(entries: &[Entry]) -> Vec<Option<(u64, u64)>> {
    let mut places: Vec<Option<(u64, u64)>> = Vec::with_capacity(entries.len());
    let mut latest: HashMap<&Path, usize> = HashMap::with_capacity(entries.len());
    let mut replaced = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        places.push(match &entry.content {
            Content::At(start, length) => Some((*start, *length)),
            Content::HardLink(target) => latest.get(plain(target)).and_then(|&target| places[target]),
            Content::SymbolicLink(_) => None,
        });
        replaced.extend(latest.insert(plain(&entry.name), number));
    }
    let follow = |mut at: usize| {
        for _ in 0..MOST_LINKS {
            let Content::SymbolicLink(target) = &entries[at].content else { return places[at] };
            at = *latest.get(&*below(&entries[at].name, target)?)?;
        }
        None
    };
    let mut all: Vec<_> = (0..entries.len()).map(follow).collect();
    replaced.into_iter().for_each(|number| all[number] = None);
    all
}

/// The name that a symbolic link called `link` leads to, if it stays within the tar file.
fn below(link: &Path, target: &Path) -> Option<PathBuf> {
    let mut name = plain(link).parent()?.to_owned();
    for part in target.components() {
        match part {
            Component::Normal(part) => name.push(part),
            Component::CurDir => {}
            Component::ParentDir => name.pop().then_some(())?,
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(name)
}

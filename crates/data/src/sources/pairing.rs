//! Which member of a tar file tells the class of which image, by their names.

use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Where the class of an image is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// In this class member.
    By(usize),
    /// In none.
    Nowhere,
    /// It belongs to a sample that has another image, as a mask does: it is not one to learn from.
    OtherImage,
    /// In one of these, and nothing says in which.
    Uncertain(Vec<usize>),
}

/// The images and class members of a tar file by what their names share.
pub(crate) struct Pairing<'a> {
    /// Names of images without their endings.
    images: HashSet<&'a [u8]>,
    /// Class members, by their names without the ending.
    exact: HashMap<&'a [u8], usize>,
    /// Class members, by what the members of one sample share.
    by_sample: HashMap<&'a [u8], Vec<usize>>,
    classes: &'a [&'a Path],
}

impl<'a> Pairing<'a> {
    pub(crate) fn new(images: impl Iterator<Item = &'a Path>, classes: &'a [&'a Path]) -> Self {
        let mut by_sample: HashMap<_, Vec<usize>> = HashMap::new();
        for (number, class) in classes.iter().enumerate() {
            by_sample.entry(sample(class)).or_default().push(number);
        }
        let exact = classes.iter().enumerate().map(|(number, class)| (stem(class), number)).collect();
        Self { images: images.map(stem).collect(), exact, by_sample, classes }
    }

    /// The class member of the same name but for the ending; else the only one that shares the name
    /// up to the first dot, as WebDataset has it, where it can be meant for no other image.
    pub(crate) fn of(&self, image: &Path) -> Told {
        let (stem_of_image, sample) = (stem(image), sample(image));
        if let Some(&class) = self.exact.get(stem_of_image) {
            return Told::By(class);
        }
        let Some(members) = self.by_sample.get(sample) else { return Told::Nowhere };
        if stem_of_image != sample && self.images.contains(sample) {
            return Told::OtherImage;
        }
        match members[..] {
            [class] => {
                let stem_of_class = stem(self.classes[class]);
                let whole = stem_of_image == sample || stem_of_class == sample;
                if whole && !self.images.contains(stem_of_class) {
                    return Told::By(class);
                }
                Told::Uncertain(vec![class])
            }
            _ => Told::Uncertain(members.clone()),
        }
    }
}

/// A name without what tar puts before it for the folder that was packed.
pub(crate) fn plain(name: &Path) -> &Path {
    let name = name.strip_prefix("/").unwrap_or(name);
    name.strip_prefix(".").unwrap_or(name)
}

/// A name without its last ending.
fn stem(name: &Path) -> &[u8] {
    up_to_dot(name, |file| file.iter().rposition(|&byte| byte == b'.'))
}

/// What the names of one sample's members share: what stands before the first dot after the folder.
fn sample(name: &Path) -> &[u8] {
    up_to_dot(name, |file| file.iter().position(|&byte| byte == b'.'))
}

fn up_to_dot(name: &Path, dot: impl Fn(&[u8]) -> Option<usize>) -> &[u8] {
    let name = plain(name).as_os_str().as_encoded_bytes();
    let file = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    dot(&name[file..]).map_or(name, |dot| &name[..file + dot])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of each image among `names`.
    fn told(names: &[&str]) -> Vec<String> {
        let (classes, images): (Vec<&Path>, Vec<&Path>) =
            names.iter().map(Path::new).partition(|name| name.extension().unwrap() == "cls");
        let pairing = Pairing::new(images.iter().copied(), &classes);
        let one = |image: &&Path| match pairing.of(image) {
            Told::By(class) => classes[class].display().to_string(),
            other => format!("{other:?}"),
        };
        images.iter().map(one).collect()
    }

    #[test]
    fn the_same_name_comes_first() {
        assert_eq!(told(&["i.0.jpg", "i.0.cls", "i.1.jpg", "i.1.cls"]), ["i.0.cls", "i.1.cls"]);
        assert_eq!(told(&["./a.b/0.jpg", "a.b/0.cls"]), ["a.b/0.cls"]);
        assert_eq!(told(&["i.jpg", "i.cls", "i.0.jpg", "i.0.cls"]), ["i.cls", "i.0.cls"]);
        assert_eq!(told(&["i.jpg", "i.png", "i.cls"]), ["i.cls", "i.cls"]);
    }

    #[test]
    fn what_is_before_the_first_dot_counts_where_it_is_certain() {
        assert_eq!(told(&["0.left.jpg", "0.right.jpg", "0.cls"]), ["0.cls", "0.cls"]);
        assert_eq!(told(&["0.jpg", "0.label.cls"]), ["0.label.cls"]);
        assert_eq!(told(&["0.a.jpg", "1.cls", "a/0.cls"]), ["Nowhere"]);
        assert_eq!(told(&["i.0.jpg", "i.1.jpg"]), ["Nowhere", "Nowhere"]);
        assert_eq!(told(&["i.2.jpg", "i.0.cls", "i.1.cls"]), ["Uncertain([0, 1])"]);
        // The class of a neighbor, whose image is there or was lost.
        assert_eq!(told(&["i.0.jpg", "i.0.cls", "i.1.jpg"]), ["i.0.cls", "Uncertain([0])"]);
        assert_eq!(told(&["i.0.cls", "i.1.jpg"]), ["Uncertain([0])"]);
        assert_eq!(told(&["i.jpg", "i.0.jpg", "i.0.cls"]), ["Uncertain([0])", "i.0.cls"]);
    }

    #[test]
    fn other_images_of_a_sample_are_no_images_of_their_own() {
        assert_eq!(told(&["0.jpg", "0.seg.png", "0.cls"]), ["0.cls", "OtherImage"]);
        assert_eq!(told(&["0.jpg", "0.seg.png"]), ["Nowhere", "Nowhere"]);
    }
}

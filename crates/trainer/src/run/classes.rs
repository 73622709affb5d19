//! Whether a network and a set of images mean the same by their classes.

use crate::error::{Error, Result};
use data::Source;

/// What to say where weights that name no classes meet class folders which torchvision would number
/// otherwise.
pub fn note_on_class_order(source: &dyn Source) -> Option<String> {
    let classes = source.classes();
    let in_folders = !source.is_empty() && source.name(0).starts_with(&classes[source.label(0)]);
    let neighbors = classes.iter().zip(classes.iter().skip(1));
    let (first, second) = neighbors.into_iter().find(|(first, second)| in_folders && first > second)?;
    Some(format!(
        "class folders are numbered in natural order, '{first}' before '{second}'; torchvision's ImageFolder compares characters, so weights \
         that were trained with it would take some of these classes for others"
    ))
}

/// A network tells classes by their number: the folder must give each number the same name.
///
/// # Errors
/// If it does not.
pub fn refuse_other_classes(classes: &[String], source: &dyn Source) -> Result<()> {
    if classes == source.classes() {
        return Ok(());
    }
    let shorten = |names: &[String]| {
        let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        if names.len() > 4 { format!("{shown}, … ({})", names.len()) } else { shown }
    };
    let network = shorten(classes);
    let data = shorten(source.classes());
    Err(Error::OtherClasses { path: source.location().to_owned(), network, data })
}

//! The files `torch.save` wrote before PyTorch 1.6: five pickles (magic number, protocol, machine,
//! the object, the keys of the storages), then each storage as a count of elements and its bytes.
//! See `_legacy_load` in torch/serialization.py.

use super::pickle::{Value, parse};
use super::torch_tensors::{Found, Outcome, build, kind};
use std::borrow::Cow;
use std::collections::HashMap;

/// The magic number 0x1950a86a20f9469cfc6c as a pickle of it ends: LONG1, and STOP.
const MAGIC: [u8; 13] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The same in protocols 0 and 1.
const MAGIC_IN_DIGITS: &[u8] = b"L119547037146038801333356L\n.";
/// Protocol, and from 4 on the length of a frame, stand before the number.
const LONGEST_HEADER: usize = 11;

/// Where the magic number with which such a file begins ends.
fn magic_end(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(MAGIC_IN_DIGITS) {
        return Some(MAGIC_IN_DIGITS.len());
    }
    let start = &bytes[..bytes.len().min(LONGEST_HEADER + MAGIC.len())];
    let at = start.windows(MAGIC.len()).position(|part| part == MAGIC)?;
    (bytes[0] == 0x80).then_some(at + MAGIC.len())
}

/// Whether a file is of this format, by how it begins.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    magic_end(bytes).is_some()
}

/// The tensors of the state dict in the file.
pub(super) fn read(bytes: &[u8]) -> Outcome<Found> {
    let start = magic_end(bytes).ok_or("it does not begin as such a file does")?;
    let (_protocol, rest) = parse(&bytes[start..])?;
    let (_machine, rest) = parse(rest)?;
    let (object, rest) = parse(rest)?;
    let (keys, mut rest) = parse(rest)?;
    let Value::List(keys_list) = keys.root else { return Err("the list of storages is missing".into()) };

    let mut storages = HashMap::new();
    for key in &keys.lists[keys_list] {
        let Value::Str(key) = key else { return Err("the name of a storage is no text".into()) };
        let class = object.storages.get(&**key);
        let class = class.ok_or_else(|| format!("storage '{key}' is not described, so its size is unknown"))?;
        let kind = kind(class).ok_or_else(|| format!("storages of type {class} are not supported"))?;
        let (count, after) = rest.split_first_chunk::<8>().ok_or("the file ends before its storages do")?;
        let length = usize::try_from(i64::from_le_bytes(*count)).ok();
        let length = length.and_then(|count| count.checked_mul(kind.elt_size_in_bytes()));
        let content = length.and_then(|length| after.split_at_checked(length));
        let (content, after) = content.ok_or("the file ends before its storages do")?;
        storages.insert(key.to_string(), content);
        rest = after;
    }
    build(&object, |storage| {
        let content = storages.get(&storage.key).ok_or_else(|| format!("storage '{}' is missing", storage.key))?;
        Ok(Cow::Borrowed(*content))
    })
}

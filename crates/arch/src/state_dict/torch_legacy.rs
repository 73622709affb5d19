//! The files `torch.save` wrote before PyTorch 1.6: five pickles (magic number, protocol, machine,
//! the object, the keys of the storages), then each storage as a count of elements and its bytes.
//! See `_legacy_load` in torch/serialization.py.

use super::pickle::{Value, parse};
use super::torch_tensors::{Outcome, build, kind};
use std::borrow::Cow;
use std::collections::HashMap;
use tch::Tensor;

/// How such a file begins: the pickle of the magic number 0x1950a86a20f9469cfc6c.
pub(super) const MAGIC: [u8; 15] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// The tensors of the state dict in the file.
pub(super) fn read(bytes: &[u8]) -> Outcome<Vec<(String, Tensor)>> {
    let (_protocol, rest) = parse(&bytes[MAGIC.len()..])?;
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

//! What both formats of `torch.save` share: finding the tensors in the pickle, and building them
//! from storages.

use super::foreign::save_a_state_dict;
use super::pickle::{Pickle, StorageRef, TensorRef, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use tch::{Kind, Tensor};

pub(super) type Outcome<T> = Result<T, String>;

/// Tensors by name, in the file's order.
pub(super) type Found = Vec<(String, Tensor)>;

/// How deep a state dict may lie among other things.
const MOST_LEVELS: usize = 4;

/// The tensors of a state dict, in order; `bytes` gives the content of a storage.
pub(super) fn build<'a>(pickle: &Pickle, bytes: impl FnMut(&StorageRef) -> Outcome<Cow<'a, [u8]>>) -> Outcome<Found> {
    let mut storages = Storages { bytes, flat: HashMap::new() };
    let mut found = Vec::new();
    for Candidate { path, tensors } in candidates(pickle)? {
        let place: String = path.iter().flat_map(|name| [name, "."]).collect();
        for (name, tensor) in tensors {
            let made = storages.tensor(tensor).map_err(|error| format!("tensor '{name}': {error}"))?;
            found.push((format!("{place}{name}"), made));
        }
    }
    Ok(found)
}

/// A dictionary with tensors in it.
struct Candidate<'a> {
    /// The names under which it lies, from the outermost dictionary on.
    path: Vec<&'a str>,
    tensors: Vec<(&'a str, &'a TensorRef)>,
}

/// A smaller dictionary than this part of the largest holds no network beside it.
const SMALLEST_PART: usize = 8;

/// The dictionaries that may be a network's state dict. One alone has no place in the file to tell.
fn candidates(pickle: &Pickle) -> Outcome<Vec<Candidate<'_>>> {
    let Value::Dict(root) = pickle.root else {
        return Err(format!("it holds no dictionary of tensors; {}", save_a_state_dict()));
    };
    let mut candidates = Vec::new();
    find_tensors(pickle, root, Vec::new(), &mut HashSet::new(), &mut candidates);
    let most = candidates.iter().map(|candidate| candidate.tensors.len()).max();
    let Some(most) = most else {
        return Err(
            "it holds no tensors by name; save model.state_dict(): torch.save(model.state_dict(), 'weights.pth')"
                .into(),
        );
    };
    candidates.retain(|candidate| SMALLEST_PART * candidate.tensors.len() >= most);
    if let [one] = &mut candidates[..] {
        one.path.clear();
    }
    Ok(candidates)
}

/// Adds a dictionary and those within it that hold tensors by name. Whatever else lies there, such
/// as an optimizer's state under numbers, is passed over.
fn find_tensors<'a>(
    pickle: &'a Pickle,
    dict: usize,
    path: Vec<&'a str>,
    seen: &mut HashSet<usize>,
    found: &mut Vec<Candidate<'a>>,
) {
    if !seen.insert(dict) {
        return;
    }
    let mut tensors = Vec::new();
    let mut inner = Vec::new();
    for item in &pickle.dicts[dict] {
        match item {
            (Value::Str(name), Value::Tensor(tensor)) => tensors.push((&**name, &**tensor)),
            (Value::Str(name), Value::Dict(dict)) => inner.push((&**name, *dict)),
            _ => {}
        }
    }
    if !tensors.is_empty() {
        found.push(Candidate { path: path.clone(), tensors });
    }
    if path.len() < MOST_LEVELS {
        for (name, dict) in inner {
            find_tensors(pickle, dict, [&path[..], &[name]].concat(), seen, found);
        }
    }
}

struct Storages<F> {
    bytes: F,
    /// Storages read so far, as one-dimensional tensors.
    flat: HashMap<String, Tensor>,
}

impl<'a, F: FnMut(&StorageRef) -> Outcome<Cow<'a, [u8]>>> Storages<F> {
    fn tensor(&mut self, tensor: &TensorRef) -> Outcome<Tensor> {
        let TensorRef { storage, offset, size, stride } = tensor;
        let invalid = || format!("size {size:?}, stride {stride:?} and offset {offset} do not fit its storage");
        if size.len() != stride.len() || *offset < 0 || size.iter().chain(stride).any(|&value| value < 0) {
            return Err(invalid());
        }
        size.iter().try_fold(1i64, |product, &size| product.checked_mul(size)).ok_or_else(invalid)?;
        // The position of the last element; an empty tensor has none.
        let mut end = *offset;
        for (&size, &stride) in size.iter().zip(stride) {
            let reach = (size - 1).checked_mul(stride).and_then(|reach| end.checked_add(reach));
            end = reach.ok_or_else(invalid)?;
        }
        let empty = size.contains(&0);
        if !empty && end >= storage.elements {
            return Err(invalid());
        }
        // A stride of 0 repeats elements: bounded like everything else by what the storage holds.
        if !empty && size.iter().product::<i64>() > storage.elements {
            return Err(invalid());
        }
        let flat = self.flat(storage)?;
        // A view: many names for one storage cost no memory of their own.
        flat.f_as_strided(size, stride, *offset).map_err(|error| error.to_string())
    }

    fn flat(&mut self, storage: &StorageRef) -> Outcome<&Tensor> {
        if !self.flat.contains_key(&storage.key) {
            let kind =
                kind(&storage.class).ok_or_else(|| format!("storages of type {} are not supported", storage.class))?;
            let bytes = (self.bytes)(storage)?;
            if i64::try_from(bytes.len() / kind.elt_size_in_bytes()) != Ok(storage.elements) {
                return Err(format!(
                    "its storage has {} bytes where {} elements were promised",
                    bytes.len(),
                    storage.elements
                ));
            }
            let flat =
                Tensor::f_from_data_size(&bytes, &[storage.elements], kind).map_err(|error| error.to_string())?;
            self.flat.insert(storage.key.clone(), flat);
        }
        self.flat
            .get(&storage.key)
            .filter(|flat| flat.numel() as i64 == storage.elements)
            .ok_or_else(|| "two tensors disagree about the size of a storage".to_owned())
    }
}

/// The element type of a storage class.
pub(super) fn kind(class: &str) -> Option<Kind> {
    Some(match class {
        "FloatStorage" => Kind::Float,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "DoubleStorage" => Kind::Double,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

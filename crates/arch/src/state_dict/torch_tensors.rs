//! What both formats of `torch.save` share: finding the tensors in the pickle, and building them
//! from storages.

use super::pickle::{Pickle, StorageRef, TensorRef, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use tch::{Kind, Tensor};

pub(super) type Outcome<T> = Result<T, String>;

/// Where training scripts put the state dict among other things.
const NESTED: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// How deep it may lie.
const MOST_LEVELS: usize = 4;

/// The tensors of a state dict, in order; `bytes` gives the content of a storage.
pub(super) fn build<'a>(
    pickle: &Pickle,
    bytes: impl FnMut(&StorageRef) -> Outcome<Cow<'a, [u8]>>,
) -> Outcome<Vec<(String, Tensor)>> {
    let mut storages = Storages { bytes, flat: HashMap::new() };
    let tensors = named_tensors(pickle)?;
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let made = storages.tensor(tensor).map_err(|error| format!("tensor '{name}': {error}"))?;
            Ok((name.to_owned(), made))
        })
        .collect()
}

/// Name and description of every tensor of the state dict, which may lie in a dictionary among
/// other things.
fn named_tensors(pickle: &Pickle) -> Outcome<Vec<(&str, &TensorRef)>> {
    let Value::Dict(mut dict) = pickle.root else {
        return Err("it holds no dictionary of tensors; save model.state_dict(), not the model".into());
    };
    for _ in 0..MOST_LEVELS {
        let nested = NESTED.iter().find_map(|name| {
            pickle.dicts[dict].iter().find_map(|(key, value)| match (key, value) {
                (Value::Str(key), Value::Dict(dict)) if **key == **name => Some(*dict),
                _ => None,
            })
        });
        dict = nested.unwrap_or(dict);
    }
    let mut tensors = Vec::new();
    for (key, value) in &pickle.dicts[dict] {
        match (key, value) {
            (Value::Str(name), Value::Tensor(tensor)) => tensors.push((&**name, &**tensor)),
            (Value::Str(name), _) => {
                return Err(format!(
                    "'{name}' is not a tensor; save the state dict alone: torch.save(model.state_dict(), …)"
                ));
            }
            _ => return Err("a key is not a name; save model.state_dict()".into()),
        }
    }
    Ok(tensors)
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

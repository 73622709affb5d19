//! The zip files `torch.save` writes: a pickle that describes the tensors, and one record per storage.

use super::pickle::{self, Pickle, StorageRef, TensorRef, Value};
use std::collections::HashMap;
use std::io::{Cursor, Read};
use tch::{Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

type Outcome<T> = Result<T, String>;

/// The tensors of a state dict saved by `torch.save(model.state_dict(), path)`.
pub(super) fn read(bytes: &[u8]) -> Outcome<Vec<(String, Tensor)>> {
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|error| format!("the zip archive is damaged ({error})"))?;
    let main = archive.file_names().flatten().find(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
    let main = main.ok_or("the zip archive holds no data.pkl, so torch.save did not write it")?.into_owned();
    let folder = main.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let pickle = pickle::parse(&record(&mut archive, &main)?)?;
    let mut storages = Storages { archive, folder, flat: HashMap::new() };
    named_tensors(&pickle)?
        .into_iter()
        .map(|(name, tensor)| {
            let made = storages.tensor(tensor).map_err(|error| format!("tensor '{name}': {error}"))?;
            Ok((name.to_owned(), made))
        })
        .collect()
}

fn named_tensors(pickle: &Pickle) -> Outcome<Vec<(&str, &TensorRef)>> {
    let Value::Dict(root) = pickle.root else {
        return Err("it holds no dictionary of tensors; save model.state_dict(), not the model".into());
    };
    let mut tensors = Vec::new();
    for (key, value) in &pickle.dicts[root] {
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

/// One record of the archive. torch.save stores records as they are, so no record is larger than the file.
fn record(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Outcome<Vec<u8>> {
    let mut file = archive.by_name(name).map_err(|error| format!("record '{name}': {error}"))?;
    if file.compression() != CompressionMethod::Stored {
        return Err(format!("record '{name}' is compressed, which torch.save never does"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| format!("record '{name}': {error}"))?;
    Ok(bytes)
}

struct Storages<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    folder: String,
    /// Storages read so far, as one-dimensional tensors.
    flat: HashMap<String, Tensor>,
}

impl Storages<'_> {
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
        let view = flat.f_as_strided(size, stride, *offset).and_then(|view| view.f_contiguous());
        view.map_err(|error| error.to_string())
    }

    fn flat(&mut self, storage: &StorageRef) -> Outcome<&Tensor> {
        if !self.flat.contains_key(&storage.key) {
            let kind =
                kind(&storage.class).ok_or_else(|| format!("storages of type {} are not supported", storage.class))?;
            let bytes = record(&mut self.archive, &format!("{}data/{}", self.folder, storage.key))?;
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

fn kind(class: &str) -> Option<Kind> {
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

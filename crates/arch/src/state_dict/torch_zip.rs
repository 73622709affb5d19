//! The zip files `torch.save` writes since PyTorch 1.6: a pickle that describes the tensors, and
//! one record per storage.

use super::pickle;
use super::torch_tensors::{Found, Outcome, build, kind};
use crate::error::Result;
use std::borrow::Cow;
use std::io::{Cursor, Read, Write};
use tch::{Device, Kind, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// The tensors of the state dict in the file.
pub(super) fn read(bytes: &[u8]) -> Outcome<Found> {
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|error| format!("the zip archive is damaged ({error})"))?;
    if archive.file_names().flatten().any(|name| name.ends_with("/constants.pkl") || name.contains("/code/")) {
        return Err(
            "it is a TorchScript program; save its state dict: python3 -c \"import torch; torch.save(torch.jit.load('FILE', \
             map_location='cpu').state_dict(), 'weights.pth')\""
                .into(),
        );
    }
    let main = archive.file_names().flatten().find(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
    let main = main.ok_or("the zip archive holds no data.pkl, so torch.save did not write it")?.into_owned();
    let folder = main.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    // Records may overlap in a crafted archive; together they hold no more than the file.
    let mut left = bytes.len() as u64;
    let (pickle, _) = pickle::parse(&record(&mut archive, &main, &mut left)?)?;
    let order = format!("{folder}byteorder");
    let swapped = archive.index_for_name(&order).is_some() && record(&mut archive, &order, &mut left)? == b"big";
    build(&pickle, |storage| {
        let mut content = record(&mut archive, &format!("{folder}data/{}", storage.key), &mut left)?;
        if swapped {
            let size = kind(&storage.class).map_or(1, |kind| kind.elt_size_in_bytes());
            content.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(Cow::Owned(content))
    })
}

/// One record of the archive, of at most `left` bytes, which it uses up. torch.save stores records
/// as they are.
fn record(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, left: &mut u64) -> Outcome<Vec<u8>> {
    let file = archive.by_name(name).map_err(|error| format!("record '{name}': {error}"))?;
    if file.compression() != CompressionMethod::Stored {
        return Err(format!("record '{name}' is compressed, which torch.save never does"));
    }
    let mut bytes = Vec::new();
    file.take(*left + 1).read_to_end(&mut bytes).map_err(|error| format!("record '{name}': {error}"))?;
    *left = left
        .checked_sub(bytes.len() as u64)
        .ok_or_else(|| format!("record '{name}' overlaps others: together they are larger than the file"))?;
    Ok(bytes)
}

/// The bytes of the file `torch.save` would write for a dictionary of these tensors, as float32.
/// Equal content gives equal bytes.
///
/// # Errors
/// If libtorch cannot copy a tensor.
pub fn to_bytes<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| tch::TchError::Convert(format!("torch.save format: {error}"));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut write = |name: &str, bytes: &[u8]| -> Result<()> {
        zip.start_file(format!("archive/{name}"), stored).map_err(|error| failed(&error))?;
        Ok(zip.write_all(bytes).map_err(|error| failed(&error))?)
    };
    // Protocol 2, an empty dictionary, then its items.
    let mut pickle = b"\x80\x02}(".to_vec();
    for (key, (name, tensor)) in tensors.into_iter().enumerate() {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut bytes = vec![0; 4 * tensor.numel()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        write(&format!("data/{key}"), &bytes)?;
        let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let number = |number: i64| [&[0x8a, 8][..], &number.to_le_bytes()].concat();
        let tuple = |parts: Vec<Vec<u8>>| [b"(".to_vec(), parts.concat(), b"t".to_vec()].concat();
        let numbers = |values: Vec<i64>| tuple(values.into_iter().map(number).collect());
        let storage = tuple(vec![
            text("storage"),
            b"ctorch\nFloatStorage\n".to_vec(),
            text(&key.to_string()),
            text("cpu"),
            number(tensor.numel() as i64),
        ]);
        // torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward
        // hooks)
        let arguments = tuple(vec![
            [storage, b"Q".to_vec()].concat(),
            number(0),
            numbers(tensor.size()),
            numbers(tensor.stride()),
            b"\x89".to_vec(),
            b"ccollections\nOrderedDict\n)R".to_vec(),
        ]);
        pickle.extend([text(name), b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments, b"R".to_vec()].concat());
    }
    pickle.extend(b"u.");
    write("data.pkl", &pickle)?;
    write("byteorder", b"little")?;
    write("version", b"3\n")?;
    Ok(zip.finish().map_err(|error| failed(&error))?.into_inner())
}

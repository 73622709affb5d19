//! The zip files `torch.save` writes since PyTorch 1.6: a pickle that describes the tensors, and one record per storage.

use super::pickle;
use super::torch_tensors::{Outcome, build};
use std::borrow::Cow;
use std::io::{Cursor, Read};
use tch::Tensor;
use zip::{CompressionMethod, ZipArchive};

/// The tensors of the state dict in the file.
pub(super) fn read(bytes: &[u8]) -> Outcome<Vec<(String, Tensor)>> {
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|error| format!("the zip archive is damaged ({error})"))?;
    let main = archive.file_names().flatten().find(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
    let main = main.ok_or("the zip archive holds no data.pkl, so torch.save did not write it")?.into_owned();
    let folder = main.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    // Records may overlap in a crafted archive; together they hold no more than the file.
    let mut left = bytes.len() as u64;
    let (pickle, _) = pickle::parse(&record(&mut archive, &main, &mut left)?)?;
    build(&pickle, |storage| record(&mut archive, &format!("{folder}data/{}", storage.key), &mut left).map(Cow::Owned))
}

/// One record of the archive, of at most `left` bytes, which it uses up. torch.save stores records as they are.
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

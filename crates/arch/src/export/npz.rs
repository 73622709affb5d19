//! Arrays as a file that `numpy.load` reads (numpy/lib/_format_impl.py, version 1.0).

use crate::error::Result;
use std::io::{Cursor, Write};
use tch::{Device, Kind, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Magic bytes, version and the length of the text that follows.
const FIXED: usize = 10;

/// The bytes of an .npz file of these arrays: bytes as they are, all others as float32.
///
/// # Errors
/// If libtorch cannot copy a tensor.
pub fn npz_bytes<'a>(arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| tch::TchError::Convert(format!("npz format: {error}"));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, array) in arrays {
        let (kind, descr) = match array.f_kind()? {
            Kind::Uint8 => (Kind::Uint8, "|u1"),
            _ => (Kind::Float, "<f4"),
        };
        let array = array.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
        let shape: String = array.size().iter().map(|size| format!("{size}, ")).collect();
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
        // The content begins at a multiple of 64.
        let length = (FIXED + text.len() + 1).next_multiple_of(64) - FIXED;
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(format!("{text:<width$}\n", width = length - 1).bytes());
        let start = bytes.len();
        bytes.resize(start + array.numel() * kind.elt_size_in_bytes(), 0);
        array.f_copy_data_u8(&mut bytes[start..], array.numel())?;
        zip.start_file(format!("{name}.npy"), stored).map_err(|error| failed(&error))?;
        zip.write_all(&bytes).map_err(|error| failed(&error))?;
    }
    Ok(zip.finish().map_err(|error| failed(&error))?.into_inner())
}

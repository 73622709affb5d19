//! Arbitrary bytes as a weights file: reading must come back with tensors or an error, in memory
//! that stays in proportion to the file. A panic, an endless loop or an allocation past libFuzzer's
//! limit is a finding.
//!
//! Behind a first byte of Z or L the rest is only the pickle of a zip file or of the older format,
//! which finds a storage named "0": random changes of a whole file would never get its checksums
//! right. Everything else is a whole file.

#![no_main]

use arch::state_dict::StateDict;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const STORAGE: [u8; 64] = [0x3f; 64];

/// A file as `torch.save` writes it.
fn zip_file(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("archive/data.pkl", pickle), ("archive/data/0", &STORAGE)] {
        zip.start_file(name, stored).expect("the archive is in memory");
        zip.write_all(bytes).expect("the archive is in memory");
    }
    zip.finish().expect("the archive is in memory").into_inner()
}

/// A file as `torch.save` wrote it before PyTorch 1.6: magic number, protocol, machine, object,
/// storages.
fn legacy_file(pickle: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00.".to_vec();
    file.extend(pickle);
    file.extend(b"\x80\x02]X\x01\x00\x00\x000a.");
    file.extend((STORAGE.len() as i64 / 4).to_le_bytes());
    file.extend(STORAGE);
    file
}

fuzz_target!(|data: &[u8]| {
    let file = match data.split_first() {
        Some((b'Z', pickle)) => zip_file(pickle),
        Some((b'L', pickle)) => legacy_file(pickle),
        _ => data.to_vec(),
    };
    if let Ok(read) = StateDict::parse(Path::new("fuzz"), &file) {
        // Views share their memory: all storages together are no larger than the file.
        let storages: HashMap<_, usize> =
            read.tensors.iter().map(|(_, tensor)| (tensor.data_ptr(), tensor.numel() * tensor.kind().elt_size_in_bytes())).collect();
        assert!(storages.values().all(|&held| held <= file.len()), "{storages:?} from {} bytes", file.len());
    }
});

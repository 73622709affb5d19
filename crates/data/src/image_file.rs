//! What an image file is, whatever its format: the ending of its name, its most bytes, its content.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// File name endings of images, compared without regard to case. torchvision's list, and GIF.
pub const IMAGE_ENDINGS: [&str; 10] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif"];

/// More bytes than any image: a file as large is something else, and reading it would not end well.
pub(crate) const MOST_BYTES_OF_A_FILE: u64 = 1 << 29;

/// Appends a file's content to `bytes`.
pub(crate) fn read_file(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MOST_BYTES_OF_A_FILE {
        return Err(io::Error::other(format!("{length} bytes are more than an image has")));
    }
    bytes.reserve(length as usize);
    file.take(MOST_BYTES_OF_A_FILE).read_to_end(bytes).map(|_| ())
}

/// Whether a name ends like an image's.
pub(crate) fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| IMAGE_ENDINGS.contains(&ending.as_str()))
}

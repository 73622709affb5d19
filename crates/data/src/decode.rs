//! Image files to pixels.

use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use std::fmt;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// An image that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// No image is decoded that is wider or higher, in pixels: a header can claim anything.
const MOST_PIXELS_PER_SIDE: u32 = 30_000;
/// Most bytes a decoder may ask for.
const MOST_BYTES: u64 = 1 << 30;

/// Decodes an image file to 8-bit RGB; grey is spread, transparency dropped, an orientation tag ignored, as torchvision does.
/// The content decides about the format, not the ending.
///
/// # Errors
/// If the file cannot be read or is not a whole image.
pub fn decode(path: &Path) -> Result<RgbImage, BadImage> {
    let bad = |reason: String| BadImage { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    if bytes.is_empty() {
        return Err(bad("the file is empty".into()));
    }
    // Decoders meet hostile files; one that panics has found a bad image, not the end of the run.
    match catch_unwind(AssertUnwindSafe(|| decode_bytes(&bytes))) {
        Ok(Ok(image)) => Ok(image),
        Ok(Err(reason)) => Err(bad(reason)),
        Err(_) => Err(bad("the decoder panicked".into())),
    }
}

fn decode_bytes(bytes: &[u8]) -> Result<RgbImage, String> {
    let text = |error: image::ImageError| error.to_string();
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS_PER_SIDE);
    limits.max_image_height = Some(MOST_PIXELS_PER_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    let image = if bytes.starts_with(&[0xff, 0xd8]) {
        // The decoder fills what is missing with grey, which would teach the network grey.
        if !jpeg_is_whole(bytes) {
            return Err("the JPEG data ends too early".into());
        }
        let mut decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(text)?;
        decoder.set_limits(limits).map_err(text)?;
        DynamicImage::from_decoder(decoder).map_err(text)?
    } else {
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
        if reader.format().is_none() {
            return Err("the content is not an image in a known format".into());
        }
        reader.limits(limits);
        reader.decode().map_err(text)?
    };
    if image.width() == 0 || image.height() == 0 {
        return Err("the image has no pixels".into());
    }
    Ok(image.into_rgb8())
}

/// Whether an end-of-image marker follows the start of the last thing that every JPEG has: a scan. Marker segments are walked
/// (ITU T.81, annex B) because a thumbnail inside one has markers of its own.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2).and_then(|pair| pair.first_chunk::<2>()) {
        match marker {
            0xff => at += 1, // fill byte
            START_OF_SCAN => {
                return bytes[at..].windows(2).any(|pair| pair == [0xff, END_OF_IMAGE]);
            }
            0x01 | 0xd0..=0xd8 => at += 2, // markers without a segment
            _ => match bytes.get(at + 2..at + 4).and_then(|length| length.first_chunk::<2>()) {
                Some(&length) => at += 2 + usize::from(u16::from_be_bytes(length)),
                None => return false,
            },
        }
    }
    // Not laid out as expected: the decoder shall say what is wrong.
    at < bytes.len()
}

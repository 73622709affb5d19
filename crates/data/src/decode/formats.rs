//! Image files to pixels.

use crate::decode::jpeg::Layout;
use crate::decode::part::{Need, Part, refuse_too_large};
use crate::image_file::read_file;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use std::cell::Cell;
use std::fmt;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;

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

/// Most bytes a decoder may ask for beside the pixels.
const MOST_BYTES: u64 = 1 << 30;

/// Decodes an image file to 8-bit RGB; gray is spread, transparency dropped, 16 bits are scaled to
/// 8 and an orientation tag is ignored, as torchvision does. The content decides about the format,
/// not the ending. Of an animation the first picture counts.
///
/// # Errors
/// If the file cannot be read or is not a whole image.
pub fn decode(path: &Path) -> Result<RgbImage, BadImage> {
    let bad = |reason: String| BadImage { path: path.to_owned(), reason };
    let (mut bytes, mut pixels) = (Vec::new(), Vec::new());
    read_file(path, &mut bytes).map_err(|error| bad(error.to_string()))?;
    let Part { width, height, .. } = decode_part(&mut bytes, &mut pixels, Need::all).map_err(bad)?;
    pixels.truncate(3 * width as usize * height as usize);
    RgbImage::from_raw(width, height, pixels).ok_or_else(|| bad("the decoder gave too few pixels".into()))
}

/// Decodes what is needed of the encoded image `bytes` into the front of `pixels`, which keeps its
/// length if that is enough. `need` is asked once, with width and height.
///
/// # Errors
/// If it is not a whole image.
pub(crate) fn decode_part(
    bytes: &mut [u8],
    pixels: &mut Vec<u8>,
    need: impl FnOnce(u32, u32) -> Need,
) -> Result<Part, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    // No other decoder gets to see a JPEG: none of them makes the same pixels of it.
    if bytes.starts_with(&[0xff, 0xd8]) {
        let layout = Layout::of(bytes)?;
        let Need { rows, shrink } = need(layout.width, layout.height);
        let decoded = contained(|| layout.decode(bytes, rows, shrink, pixels));
        layout.restore(bytes);
        return decoded;
    }
    let part = contained(|| any_format(bytes, pixels))?;
    need(part.width, part.height);
    Ok(part)
}

/// Runs a decoder. Decoders meet hostile files; one that panics has found a bad image, not the end
/// of the run, and nothing that anybody needs to read on their terminal.
fn contained(decode: impl FnOnce() -> Result<Part, String>) -> Result<Part, String> {
    static QUIET: Once = Once::new();
    thread_local! { static DECODING: Cell<bool> = const { Cell::new(false) } }
    QUIET.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if !DECODING.get() {
                others(panic);
            }
        }));
    });
    DECODING.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    decoded.unwrap_or_else(|_| Err("the decoder cannot make sense of it".into()))
}

/// Decodes a whole image of any format.
fn any_format(bytes: &[u8], pixels: &mut Vec<u8>) -> Result<Part, String> {
    let text = |error: image::ImageError| error.to_string();
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("the content is not an image in a known format".into());
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(text)?;
    let (width, height) = decoder.dimensions();
    refuse_too_large(width, height)?;
    *pixels = DynamicImage::from_decoder(decoder).map_err(text)?.into_rgb8().into_raw();
    Ok(Part { width, height, scale: 1 })
}

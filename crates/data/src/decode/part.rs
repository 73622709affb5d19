//! What is asked of a decoder, and what it gives: the upper part of an image.

/// No image with more pixels is decoded, because a header can claim anything: where Pillow too
/// refuses.
pub(crate) const MOST_PIXELS: u64 = 178_956_970;

/// The upper part of an image in memory, three bytes a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub width: u32,
    pub height: u32,
    /// Pixels of the file per pixel in memory, along each side.
    pub scale: u32,
}

/// What is needed of an image of a known size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Need {
    /// Rows from the top.
    pub rows: u32,
    /// How much it will be resized down, per side.
    pub shrink: f64,
}

impl Need {
    /// Every pixel of an image of that size.
    pub(crate) fn all(_: u32, rows: u32) -> Self {
        Self { rows, shrink: 1.0 }
    }
}

/// Refuses an image without pixels, and one with too many.
pub(crate) fn refuse_too_large(width: u32, height: u32) -> Result<(), String> {
    match u64::from(width) * u64::from(height) {
        0 => Err("the image has no pixels".into()),
        pixels if pixels > MOST_PIXELS => {
            Err(format!("the header claims {width} × {height} pixels; more than {MOST_PIXELS} are refused"))
        }
        _ => Ok(()),
    }
}

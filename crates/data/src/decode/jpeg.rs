//! JPEG files to pixels: only the rows that are needed, at a size close to the one that is needed,
//! byte for byte what libjpeg-turbo and so Pillow and torchvision decode.

use crate::decode::jpeg_rare::{self, Asked};
use crate::decode::jpeg_walk::{Walk, cut};
use crate::decode::part::{MOST_PIXELS, Part, refuse_too_large};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat, ScalingFactor};

/// How much larger than the result an image decoded at a fraction of its size still is at least,
/// per side. With less the fraction's own filter shows, most at the edges of a crop: at 4 one
/// photograph in 500 differs by 0.8 gray levels, at 6 none by 0.6.
const LEFT_TO_RESIZE: f64 = 6.0;

/// Most scans of a file: each of them costs a pass over the image, however short it is.
const MOST_SCANS: usize = 500;

/// Most pixels of all scans together, for the same reason: ten seconds or so. The largest image with
/// the usual ten scans has less than half of it.
const MOST_SCANNED: u64 = 1 << 32;

/// Where things lie in a JPEG file (ITU T.81, annex B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub width: u32,
    pub height: u32,
    /// Where the two bytes of the height are.
    height_at: usize,
    /// Whether it has four components, of ink.
    ink: bool,
    /// Pixels that a row of coding units is high.
    row: u32,
    /// Whether one scan holds everything from top to bottom, so that the rows below some row can be
    /// left out.
    top_down: bool,
    /// Whether it is sampled as most files are. Others are decoded at their full size only.
    plain: bool,
    /// Whether the fast decoder gets it right. Others are decoded by libjpeg's own code.
    common: bool,
    /// Whether all its scans are there.
    whole: bool,
}

impl Layout {
    /// Walks the whole file, and tells which decoder makes of it what libjpeg-turbo does. What is
    /// damaged is refused: decoders differ in their guesses.
    ///
    /// # Errors
    /// In words, if the file is damaged, of a kind that is not decoded, or ends before its
    /// end-of-image marker: decoders fill what is missing with gray, which would teach the network
    /// gray.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut walk = Walk::of(bytes)?;
        while !walk.step()? {}
        let Some((frame, height_at)) = walk.frame else { return Err("the JPEG holds no image".into()) };
        refuse_too_large(frame.width, frame.height)?;
        if walk.known.scans == 0 {
            return Err("the JPEG holds no image".into());
        }
        if walk.known.scans > MOST_SCANS {
            return Err(format!("the JPEG has {} scans; more than {MOST_SCANS} are refused", walk.known.scans));
        }
        let scanned = u64::from(frame.width) * u64::from(frame.height) * walk.known.scans as u64;
        if scanned > MOST_SCANNED {
            return Err(format!(
                "the JPEG has {} scans of {} × {} pixels",
                walk.known.scans, frame.width, frame.height
            ));
        }
        // Of a progressive file some scans may be missing: libjpeg smooths the blocks then.
        let whole = walk.known.is_all(&frame);
        if !whole && !frame.progressive {
            return Err("the JPEG lacks a component".into());
        }
        let (across, down) = frame.largest();
        let even =
            frame.components()[1..].windows(2).all(|two| (two[0].across, two[0].down) == (two[1].across, two[1].down));
        Ok(Self {
            width: frame.width,
            height: frame.height,
            height_at,
            ink: frame.components().len() == 4,
            row: 8 * down,
            top_down: !frame.progressive && walk.known.scans == 1,
            plain: across <= 2 && down <= 2 && even,
            whole,
            common: whole && frame.common() && walk.known.common && walk.common,
        })
    }

    /// Decodes the upper `rows` rows, or more, into `pixels`, shrunk where the image will be
    /// resized by more than `shrink` anyway. `bytes` may say another height afterwards, see
    /// [`Self::restore`].
    ///
    /// # Errors
    /// Whatever the decoder says.
    pub(crate) fn decode(
        &self,
        bytes: &mut [u8],
        rows: u32,
        shrink: f64,
        pixels: &mut Vec<u8>,
    ) -> Result<Part, String> {
        if !self.common {
            let asked = Asked { rows, ink: self.ink, whole: self.whole };
            let (width, height) = jpeg_rare::decode(bytes, asked, pixels)?;
            if self.ink {
                ink_to_rgb(&mut pixels[..4 * width as usize * height as usize]);
            }
            return Ok(Part { width, height, scale: 1 });
        }
        // A frame that claims fewer rows is a whole one whose scan goes on: what follows is not
        // read. One more row of coding units than needed, because upsampled color looks at the
        // next.
        let claimed = (rows.div_ceil(self.row) + 1) * self.row;
        if self.top_down && claimed < self.height {
            bytes[self.height_at..self.height_at + 2].copy_from_slice(&(claimed as u16).to_be_bytes());
        }
        self.decode_frame(bytes, shrink, pixels)
    }

    /// Writes back the height that [`Self::decode`] replaced.
    pub(crate) fn restore(&self, bytes: &mut [u8]) {
        bytes[self.height_at..self.height_at + 2].copy_from_slice(&(self.height as u16).to_be_bytes());
    }

    fn decode_frame(&self, bytes: &[u8], shrink: f64, pixels: &mut Vec<u8>) -> Result<Part, String> {
        let text = |error: JpegError| error.to_string();
        let limits = DecodeLimits { max_pixels: MOST_PIXELS, max_scans: MOST_SCANS, ..DecodeLimits::default() };
        let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(text)?;
        decoder.set_output_format(if self.ink { PixelFormat::Cmyk } else { PixelFormat::Rgb });
        let fits = |&scale: &u32| self.plain && shrink / f64::from(scale) >= LEFT_TO_RESIZE;
        let scale = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        if scale > 1 {
            decoder.set_scale(ScalingFactor::try_new(1, scale).map_err(text)?);
        }
        let size = decoder.output_buffer_size().map_err(text)?;
        if pixels.len() < size {
            pixels.resize(size, 0);
        }
        // Strictly: where codes are damaged, what libjpeg-turbo and the lenient decoder go on with
        // differs.
        let info = decoder.decode_image_into(&mut pixels[..size]).map_err(|error| match error {
            // What is missing would be gray.
            JpegError::UnexpectedEof => cut(),
            error => format!("the JPEG data are damaged: {error}"),
        })?;
        if self.ink {
            ink_to_rgb(&mut pixels[..size]);
        }
        Ok(Part { width: info.width as u32, height: info.height as u32, scale })
    }
}

/// Cyan, magenta, yellow and black, as JPEG files have them, the more the brighter, to RGB at the
/// front of the buffer: Pillow's arithmetic.
fn ink_to_rgb(pixels: &mut [u8]) {
    for pixel in 0..pixels.len() / 4 {
        let black = u32::from(pixels[4 * pixel + 3]);
        for channel in 0..3 {
            // black - (255 - ink) · black / 255, the product rounded as Pillow's MULDIV255 does.
            let product = (255 - u32::from(pixels[4 * pixel + channel])) * black + 128;
            pixels[3 * pixel + channel] = (black - (((product >> 8) + product) >> 8)) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libjpeg_turbo_rs::{Encoder, Subsampling, decompress_to};

    const WIDTH: usize = 101;
    const HEIGHT: usize = 83;

    /// JPEGs of every subsampling, with restarts and without, and one of grays.
    fn files() -> Vec<(String, Vec<u8>)> {
        let wave = |i: usize| (128.0 + 100.0 * (i as f64 * 0.037).sin() + 20.0 * (i as f64 * 1.7).cos()) as u8;
        let pixels: Vec<u8> = (0..3 * WIDTH * HEIGHT).map(wave).collect();
        let kinds = [
            Subsampling::S444,
            Subsampling::S422,
            Subsampling::S420,
            Subsampling::S440,
            Subsampling::S411,
            Subsampling::S441,
        ];
        let mut files = Vec::new();
        for kind in kinds {
            for restart in [0, 2] {
                let encoder = Encoder::new(&pixels, WIDTH, HEIGHT, PixelFormat::Rgb).quality(90).subsampling(kind);
                let encoder = if restart > 0 { encoder.restart_blocks(restart) } else { encoder };
                files.push((format!("{kind:?}, restarts {restart}"), encoder.encode().unwrap()));
            }
        }
        let gray = Encoder::new(&pixels[..WIDTH * HEIGHT], WIDTH, HEIGHT, PixelFormat::Grayscale).quality(90);
        files.push(("gray".into(), gray.encode().unwrap()));
        files
    }

    #[test]
    fn the_upper_rows_are_those_of_the_whole_image() {
        for (name, mut bytes) in files() {
            let whole = decompress_to(&bytes, PixelFormat::Rgb).unwrap();
            let layout = Layout::of(&bytes).unwrap();
            assert!(layout.top_down, "{name}");
            for rows in [1, 8, 15, 16, 17, 40, 82, 83] {
                let mut pixels = Vec::new();
                let part = layout.decode(&mut bytes, rows, 1.0, &mut pixels).unwrap();
                layout.restore(&mut bytes);
                let left_out = rows + 2 * layout.row < 83;
                assert!(part.height >= rows && (part.height < 83 || !left_out), "{name}: {rows} of {part:?}");
                let needed = 3 * WIDTH * rows as usize;
                assert_eq!(pixels[..needed], whole.data[..needed], "{name}, {rows} rows");
            }
        }
    }

    #[test]
    fn shrunk_rows_are_those_of_the_shrunk_image() {
        for (name, mut bytes) in files() {
            let layout = Layout::of(&bytes).unwrap();
            if !layout.plain {
                continue;
            }
            let shrunk = |rows, bytes: &mut Vec<u8>| {
                let mut pixels = Vec::new();
                let part = layout.decode(bytes, rows, 2.0 * LEFT_TO_RESIZE, &mut pixels).unwrap();
                layout.restore(bytes);
                assert_eq!((part.scale, part.width), (2, 51), "{name}");
                (part.height, pixels)
            };
            let (height, whole) = shrunk(83, &mut bytes);
            assert_eq!(height, 42);
            let (height, upper) = shrunk(33, &mut bytes);
            assert!((17..42).contains(&height) || layout.row > 16, "{name}: {height}");
            // The last row that is needed, 33 / 2, is whole.
            assert_eq!(upper[..3 * 51 * 17], whole[..3 * 51 * 17], "{name}");
        }
    }

    #[test]
    fn a_scan_that_ends_early_is_cut_whatever_follows() {
        for (name, bytes) in files() {
            let mut shorter = bytes[..bytes.len() * 2 / 3].to_vec();
            shorter.extend([0xff, 0xd9]);
            let decoded = Layout::of(&shorter).and_then(|layout| layout.decode(&mut shorter, 83, 1.0, &mut Vec::new()));
            let reason = decoded.unwrap_err();
            assert!(
                reason == cut() || reason.contains("restart markers") && name.contains("restarts 2"),
                "{name}: {reason}"
            );
        }
    }
}

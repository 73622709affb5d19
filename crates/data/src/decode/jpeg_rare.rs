//! JPEG files of kinds that few programs write, decoded by libjpeg's own code: slower, and with the
//! pixels of Pillow, which is built on it.

use crate::decode::jpeg_walk::cut;
use mozjpeg_sys::{
    J_COLOR_SPACE, JWRN_ADOBE_XFORM, JWRN_EXTRANEOUS_DATA, JWRN_HIT_MARKER, JWRN_JFIF_MAJOR, JWRN_JPEG_EOF,
    jpeg_abort_decompress, jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_mem_src, jpeg_read_coefficients, jpeg_read_header, jpeg_read_scanlines, jpeg_start_decompress,
    jpeg_std_error,
};
use std::f32::consts::{FRAC_1_SQRT_2, PI};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{mem, slice};

/// What ended a decoding: it travels as a panic through libjpeg, which knows no other way back.
struct Stopped(String);

/// What is asked of a JPEG file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Rows from the top.
    pub rows: u32,
    /// Whether it is of ink: four bytes a pixel, else three.
    pub ink: bool,
    /// Whether all its scans are there.
    pub whole: bool,
}

/// Largest value of a pixel around zero that libjpeg's tables clamp, with some room for rounding:
/// they wrap what is beyond 511.
const MOST_VALUE: f32 = 510.0;

/// The same where scans are missing. libjpeg then predicts coefficients from the blocks around: the
/// sum of the weights it uses is at most 2.84 times the largest of them (jdcoefct.c,
/// `decompress_smooth_data`).
const MOST_BEFORE_SMOOTHING: f32 = MOST_VALUE / 2.84;

/// Decodes the upper rows of a JPEG file into the front of `pixels`. Returns width and height of
/// what was decoded.
///
/// # Errors
/// In words, where libjpeg refuses the file, and where it would go on with a guess.
pub(crate) fn decode(bytes: &[u8], asked: Asked, pixels: &mut Vec<u8>) -> Result<(u32, u32), String> {
    let decoding = AssertUnwindSafe(|| {
        let mut reader = Reader::of(bytes);
        reader.read_header();
        reader.check_blocks(if asked.whole { MOST_VALUE } else { MOST_BEFORE_SMOOTHING });
        reader.read_header();
        reader.upper_rows(asked, pixels)
    });
    catch_unwind(decoding).map_err(|panic| match panic.downcast::<Stopped>() {
        Ok(stopped) => stopped.0,
        Err(panic) => resume_unwind(panic),
    })
}

/// libjpeg with a file before it. Its functions unwind with [`Stopped`] on errors.
struct Reader<'a> {
    state: Box<jpeg_decompress_struct>,
    /// What `state` points to.
    _messages: Box<jpeg_error_mgr>,
    bytes: PhantomData<&'a [u8]>,
    source: (*const u8, usize),
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        // SAFETY: both structures are pointers, numbers and optional functions, for which zero is a
        // value, and these functions fill them. They are boxed, and so stay where they are.
        unsafe {
            let mut messages: Box<jpeg_error_mgr> = Box::new(mem::zeroed());
            jpeg_std_error(&mut messages);
            messages.error_exit = Some(refuse);
            messages.emit_message = Some(warn);
            let mut state: Box<jpeg_decompress_struct> = Box::new(mem::zeroed());
            state.common.err = &raw mut *messages;
            jpeg_create_decompress(&raw mut *state);
            let source = (bytes.as_ptr(), bytes.len());
            Self { state, _messages: messages, bytes: PhantomData, source }
        }
    }

    /// Begins at the front of the file.
    fn read_header(&mut self) {
        // SAFETY: the bytes outlive the reader.
        unsafe {
            jpeg_abort_decompress(&mut self.state);
            jpeg_mem_src(&mut self.state, self.source.0, self.source.1 as u64);
            jpeg_read_header(&mut self.state, 1);
        }
    }

    /// Refuses blocks far outside of what 8 bits a color can be. Only damage brings them about, and
    /// arithmetic overflows on them, in Pillow's vector instructions in another way than here.
    fn check_blocks(&mut self, most: f32) {
        let cosines = cosines();
        // SAFETY: the arrays hold for every component rows of `width_in_blocks` blocks, as many as
        // `height_in_blocks` rounded up to a coding unit, and stay until `read_header`; a component
        // that a scan holds has its table. The common part is the beginning of the whole structure.
        unsafe {
            let arrays = jpeg_read_coefficients(&mut self.state);
            let Some(access) = (*self.state.common.mem).access_virt_barray else { return };
            let common = (&raw mut *self.state).cast::<jpeg_common_struct>();
            for at in 0..self.state.num_components as usize {
                let component = &*self.state.comp_info.add(at);
                let Some(table) = component.quant_table.as_ref() else { continue };
                // What lies below the image counts where blocks are smoothed.
                for row in 0..component.height_in_blocks.next_multiple_of(component.v_samp_factor as u32) {
                    let rows = access(&mut *common, *arrays.add(at), row, 1, 0);
                    let blocks = slice::from_raw_parts(*rows, component.width_in_blocks as usize);
                    if blocks.iter().any(|block| !fits(block, &table.quantval, &cosines, most)) {
                        stop("the JPEG data are damaged: a block is far outside of 8 bits a color".into());
                    }
                }
            }
        }
    }

    fn upper_rows(&mut self, asked: Asked, pixels: &mut Vec<u8>) -> (u32, u32) {
        self.state.out_color_space = if asked.ink { J_COLOR_SPACE::JCS_CMYK } else { J_COLOR_SPACE::JCS_RGB };
        // SAFETY: a row of the buffer is as long as libjpeg says that a row is.
        unsafe {
            jpeg_start_decompress(&mut self.state);
            let (width, rows) = (self.state.output_width, self.state.output_height.min(asked.rows));
            let stride = width as usize * self.state.output_components as usize;
            let size = stride * rows as usize;
            if pixels.len() < size {
                pixels.resize(size, 0);
            }
            for row in pixels[..size].chunks_exact_mut(stride) {
                let mut row = row.as_mut_ptr();
                if jpeg_read_scanlines(&mut self.state, &raw mut row, 1) != 1 {
                    stop(cut());
                }
            }
            (width, rows)
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // SAFETY: it was created in `of`.
        unsafe { jpeg_destroy_decompress(&mut self.state) }
    }
}

/// One dimension of the discrete cosine transform (ITU T.81, A.3.3): `[position][frequency]`.
fn cosines() -> [[f32; 8]; 8] {
    let scale = |frequency| if frequency == 0 { FRAC_1_SQRT_2 / 2.0 } else { 0.5 };
    let cosine = |x: usize, u: usize| scale(u) * ((2 * x + 1) as f32 * u as f32 * PI / 16.0).cos();
    std::array::from_fn(|x| std::array::from_fn(|u| cosine(x, u)))
}

/// Whether all values of a block, around zero, are at most `most`.
fn fits(block: &[i16; 64], steps: &[u16; 64], cosines: &[[f32; 8]; 8], most: f32) -> bool {
    let coefficient = |at: usize| f32::from(block[at]) * f32::from(steps[at]);
    if (1..64).all(|at| block[at] == 0) {
        return coefficient(0).abs() <= 8.0 * most;
    }
    let mut half = [[0.0; 8]; 8];
    for (v, half) in half.iter_mut().enumerate() {
        for (half, cosine) in half.iter_mut().zip(cosines) {
            *half = (0..8).map(|u| coefficient(8 * v + u) * cosine[u]).sum::<f32>();
        }
    }
    let value = |x: usize, cosine: &[f32; 8]| (0..8).map(|v| half[v][x] * cosine[v]).sum::<f32>();
    cosines.iter().all(|cosine| (0..8).all(|x| value(x, cosine).abs() <= most))
}

fn stop(reason: String) -> ! {
    resume_unwind(Box::new(Stopped(reason)))
}

extern "C-unwind" fn refuse(state: &mut jpeg_common_struct) {
    stop(format!("libjpeg cannot read the JPEG: {}", message(state)));
}

/// Warnings have a negative level. All of them are damage, but for bytes that stand between
/// segments, which mean nothing, and headers that contradict themselves without consequence.
extern "C-unwind" fn warn(state: &mut jpeg_common_struct, level: i32) {
    // SAFETY: `err` was set in `Reader::of`.
    let code = unsafe { (*state.err).msg_code };
    if level >= 0 || [JWRN_EXTRANEOUS_DATA, JWRN_ADOBE_XFORM, JWRN_JFIF_MAJOR].contains(&code) {
        return;
    }
    if [JWRN_HIT_MARKER, JWRN_JPEG_EOF].contains(&code) {
        stop(cut());
    }
    stop(format!("the JPEG data are damaged: {}", message(state)));
}

/// What libjpeg says, in its words.
fn message(state: &mut jpeg_common_struct) -> String {
    // JMSG_LENGTH_MAX of jpeglib.h; the binding's declaration has another length.
    let mut text = [0u8; 200];
    // SAFETY: as in `warn`; the function takes a `char *` and writes at most 200 bytes, a zero among
    // them.
    unsafe {
        if let Some(format) = (*state.err).format_message {
            let format: unsafe extern "C-unwind" fn(&mut jpeg_common_struct, *mut u8) = mem::transmute(format);
            format(state, text.as_mut_ptr());
        }
    }
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}

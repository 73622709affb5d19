//! Bad and odd files: the right pixels, or a counted skip with path and reason.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::{BadImage, Loader, LoaderOptions, Normalize, Source, Split, Transform};
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ExtendedColorType, Frame, ImageEncoder, ImageFormat, Luma, Rgb, Rgba};
use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SIDE: u32 = 16;

/// A picture of plain color: whatever is done to it, its pixels are known.
const COLOR: [u8; 3] = [200, 120, 40];

/// One file and what has to come of it.
enum Expected {
    /// Pixels of this color, to within a few levels where the format loses some.
    Color([u8; 3]),
    /// A skip whose reason holds this text.
    Skip(&'static str),
    /// Pixels or a skip: decoders differ in what they still make of it.
    Either,
}

use Expected::{Color, Either, Skip};

fn picture() -> DynamicImage {
    DynamicImage::ImageRgb8(image::RgbImage::from_pixel(40, 30, Rgb(COLOR)))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("the picture is encoded");
    bytes.into_inner()
}

/// Pixels with more detail, so that a cut file really lacks some.
fn detailed_jpeg(progressive: bool) -> Vec<u8> {
    let pixels: Vec<u8> = (0..64 * 48 * 3).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let encoder = Encoder::new(&pixels, 64, 48, PixelFormat::Rgb).quality(90).progressive(progressive);
    encoder.encode().expect("the picture is encoded")
}

fn ink_jpeg(sampling: Subsampling) -> Vec<u8> {
    // The more the brighter, as in files of Photoshop: 255 of every ink and of black is white.
    let pixels: Vec<u8> = std::iter::repeat_n([COLOR[0], COLOR[1], COLOR[2], 255], 40 * 30).flatten().collect();
    Encoder::new(&pixels, 40, 30, PixelFormat::Cmyk)
        .quality(95)
        .subsampling(sampling)
        .encode()
        .expect("the picture is encoded")
}

/// A JPEG with an orientation tag that says it lies on its side.
fn rotated_jpeg() -> Vec<u8> {
    let mut left_red = image::RgbImage::from_pixel(64, 64, Rgb(COLOR));
    (0..64).for_each(|y| (0..64).for_each(|x| left_red.put_pixel(x, y, if y < 32 { Rgb(COLOR) } else { Rgb([0; 3]) })));
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    // TIFF, little endian: one entry, tag 0x112 (orientation), value 6 (turn by a quarter).
    let mut tag = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
    tag.extend([0; 4]);
    encoder.set_exif_metadata(tag).expect("JPEG has such tags");
    encoder.write_image(&left_red, 64, 64, ExtendedColorType::Rgb8).expect("the picture is encoded");
    bytes
}

/// A frame of a JPEG that claims a size, with nothing behind it but the end.
fn claim(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = detailed_jpeg(false);
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame");
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

fn gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame =
        |color: [u8; 3]| Frame::new(image::RgbaImage::from_pixel(40, 30, Rgba([color[0], color[1], color[2], 255])));
    GifEncoder::new(&mut bytes).encode_frames([frame(COLOR), frame([0; 3])]).expect("the picture is encoded");
    bytes
}

/// Every file with its content.
fn files() -> Vec<(String, Vec<u8>, Expected)> {
    let jpeg = encoded(&picture(), ImageFormat::Jpeg);
    let png = encoded(&picture(), ImageFormat::Png);
    let transparent = |alpha| {
        let [red, green, blue] = COLOR;
        DynamicImage::ImageRgba8(image::RgbaImage::from_pixel(40, 30, Rgba([red, green, blue, alpha])))
    };
    let deep = image::ImageBuffer::from_pixel(40, 30, Rgb(COLOR.map(|value| u16::from(value) * 257)));
    let deep_gray = image::ImageBuffer::from_pixel(40, 30, Luma([120u16 * 257]));
    let gray = DynamicImage::ImageLuma8(image::GrayImage::from_pixel(40, 30, Luma([120])));
    let mut trailing = jpeg.clone();
    trailing.extend(b"something a camera appends");
    let broken: Vec<u8> = detailed_jpeg(false)
        .into_iter()
        .enumerate()
        .map(|(i, byte)| if i > 400 && i % 3 == 0 && byte != 255 { 0 } else { byte })
        .collect();
    let mut files = vec![
        ("plain.jpg", jpeg.clone(), Color(COLOR)),
        ("png-named.JPEG", png.clone(), Color(COLOR)),
        ("jpeg-named.png", jpeg, Color(COLOR)),
        ("progressive.jpg", progressive(), Color(COLOR)),
        ("gray.jpg", encoded(&gray, ImageFormat::Jpeg), Color([120; 3])),
        ("gray.png", encoded(&gray, ImageFormat::Png), Color([120; 3])),
        ("ink.jpg", ink_jpeg(Subsampling::S444), Color(COLOR)),
        ("coarse-ink.jpg", ink_jpeg(Subsampling::S420), Color(COLOR)),
        ("alpha.png", encoded(&transparent(255), ImageFormat::Png), Color(COLOR)),
        ("invisible.png", encoded(&transparent(0), ImageFormat::Png), Color(COLOR)),
        ("16-bit.png", encoded(&DynamicImage::ImageRgb16(deep), ImageFormat::Png), Color(COLOR)),
        ("16-bit-gray.png", encoded(&DynamicImage::ImageLuma16(deep_gray), ImageFormat::Png), Color([120; 3])),
        ("palette.png", palette_png(), Color(COLOR)),
        ("image.webp", encoded(&picture(), ImageFormat::WebP), Color(COLOR)),
        ("animation.gif", gif(), Color(COLOR)),
        ("image.bmp", encoded(&picture(), ImageFormat::Bmp), Color(COLOR)),
        ("image.tiff", encoded(&picture(), ImageFormat::Tiff), Color(COLOR)),
        ("image.ppm", encoded(&picture(), ImageFormat::Pnm), Color(COLOR)),
        ("trailing.jpg", trailing, Color(COLOR)),
        ("empty.jpg", Vec::new(), Skip("the file is empty")),
        ("one-byte.jpg", vec![0xff], Skip("not an image in a known format")),
        ("two-bytes.jpg", vec![0xff, 0xd8], Skip("ends too early")),
        ("text.jpg", b"this is not an image, though its name says so".to_vec(), Skip("not an image in a known format")),
        ("zeros.jpg", vec![0; 4096], Skip("not an image in a known format")),
        ("claims-60000.jpg", claim(60_000, 60_000), Skip("60000 × 60000 pixels")),
        ("claims-nothing.jpg", claim(0, 0), Skip("no pixels")),
        ("claims-60000.pgm", b"P5 60000 60000 255\n".to_vec(), Skip("60000 × 60000 pixels")),
        ("claims-a-row.jpg", claim(65_000, 48), Skip("ends too early")),
        ("cut.png", png[..png.len() / 2].to_vec(), Skip("")),
        ("cut.webp", encoded(&picture(), ImageFormat::WebP)[..30].to_vec(), Skip("")),
        ("cut.gif", gif()[..30].to_vec(), Skip("")),
    ]
    .into_iter()
    .map(|(name, bytes, expected)| (name.to_owned(), bytes, expected))
    .collect::<Vec<_>>();
    for progressive in [false, true] {
        let whole = detailed_jpeg(progressive);
        for tenth in 0..10 {
            let reason = if tenth == 0 { "the file is empty" } else { "ends too early" };
            let name = format!("cut-{}-{tenth}.jpg", if progressive { "progressive" } else { "sequential" });
            files.push((name, whole[..whole.len() * tenth / 10].to_vec(), Skip(reason)));
        }
    }
    // The decoder may not notice; what it makes of it then is Pillow's.
    files.push(("broken-inside.jpg".into(), broken, Either));
    files.extend(odd_jpegs());
    files
}

/// JPEG files that decoders disagree about.
fn odd_jpegs() -> Vec<(String, Vec<u8>, Expected)> {
    let plain = encoded(&picture(), ImageFormat::Jpeg);
    let detailed = detailed_jpeg(false);
    let first = |bytes: &[u8], marker: u8| {
        bytes.windows(2).position(|pair| pair == [0xff, marker]).expect("it has such a segment")
    };
    let with = |bytes: &[u8], at: usize, more: &[u8]| [&bytes[..at], more, &bytes[at..]].concat();
    let changed = |at: usize, byte: u8| {
        let mut bytes = detailed.clone();
        bytes[at] = byte;
        bytes
    };
    let between = with(&plain, first(&plain, 0xdb), &[0xff, 0, 0xff, 0]);
    let frame = first(&detailed, 0xc0);
    let between_and_cut = with(&detailed, first(&detailed, 0xdb), &[0, 0]);
    let mut first_scans = progressive();
    let scans: Vec<usize> = (0..first_scans.len() - 1).filter(|&at| first_scans[at..at + 2] == [0xff, 0xda]).collect();
    first_scans.truncate(scans[2]);
    first_scans.extend([0xff, 0xd9]);
    [
        ("zeros-between.jpg", with(&plain, first(&plain, 0xdb), &[0, 0]), Color(COLOR)),
        ("stuffing-between.jpg", between, Color(COLOR)),
        ("between-and-cut.jpg", between_and_cut[..detailed.len() * 3 / 4].to_vec(), Skip("ends too early")),
        ("empty-segment.jpg", with(&plain, 2, &[0xff, 0xe5, 0, 0]), Color(COLOR)),
        ("finer-chroma.jpg", changed(frame + 14, 0x44), Skip("more than 10 blocks")),
        ("12-bits.jpg", changed(frame + 4, 12), Skip("12 bits")),
        ("lossless.jpg", changed(frame + 1, 0xc3), Skip("lossless")),
        ("hierarchical.jpg", changed(frame + 1, 0xc5), Skip("hierarchical")),
        ("arithmetic.jpg", changed(frame + 1, 0xc9), Either),
        ("table.jpg", changed(first(&detailed, 0xc4) + 5, 9), Skip("Huffman table")),
        ("first-scans.jpg", first_scans, Color(COLOR)),
        ("not-even-a-marker.jpg", vec![0xff, 0xd8, 0, 0, 0, 0], Skip("begins like a JPEG")),
    ]
    .map(|(name, bytes, expected)| (name.to_owned(), bytes, expected))
    .into()
}

fn progressive() -> Vec<u8> {
    let pixels = picture().into_rgb8().into_raw();
    Encoder::new(&pixels, 40, 30, PixelFormat::Rgb)
        .quality(95)
        .progressive(true)
        .encode()
        .expect("the picture is encoded")
}

/// Eight bits a pixel that point into a palette of which one color is transparent.
fn palette_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 40, 30);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette([&[0; 3][..], &COLOR].concat());
    encoder.set_trns(vec![255, 0]);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&[1; 40 * 30]))
        .expect("the picture is encoded");
    bytes
}

/// The pixels of every image that could be used, by path, and the others.
fn load(source: Arc<dyn Source>) -> (Vec<(PathBuf, Vec<f32>)>, Vec<BadImage>) {
    let options = LoaderOptions {
        transform: Transform::ResizeCenterCrop { resize: SIDE, size: SIDE },
        normalize: Normalize { mean: [0.0; 3], std: [1.0 / 255.0; 3] },
        batch_size: 4,
        threads: 2,
        ..LoaderOptions::default()
    };
    let loader = Loader::new(Arc::clone(&source), options).unwrap();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for batch in loader.epoch(0, 0).unwrap() {
        for (&item, pixels) in batch.items.iter().zip(batch.pixels.chunks((3 * SIDE * SIDE) as usize)) {
            good.push((source.path(item), pixels.to_vec()));
        }
        bad.extend(batch.bad);
    }
    assert_eq!(good.len() + bad.len(), source.len(), "every image is used or counted");
    (good, bad)
}

#[test]
fn every_odd_file_gives_the_right_pixels_or_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class");
    fs::create_dir(&class).unwrap();
    let files = files();
    assert!(files.len() >= 50);
    for (name, bytes, _) in &files {
        fs::write(class.join(name), bytes).unwrap();
    }
    let (good, bad) = load(Arc::new(Split::open(folder.path()).unwrap()));
    for (name, _, expected) in &files {
        let pixels = good.iter().find(|(path, _)| path.ends_with(name)).map(|(_, pixels)| pixels);
        let reason = bad.iter().find(|bad| bad.path.ends_with(name)).map(|bad| &*bad.reason);
        match (expected, pixels, reason) {
            (Color(color), Some(pixels), None) => {
                let off = pixels
                    .as_chunks::<3>()
                    .0
                    .iter()
                    .flat_map(|pixel| [0, 1, 2].map(|c| (pixel[c] - f32::from(color[c])).abs()));
                let most = off.fold(0.0, f32::max);
                assert!(most <= 4.0, "{name}: off by {most}");
            }
            (Skip(text), None, Some(reason)) => assert!(reason.contains(text), "{name}: {reason}"),
            (Either, Some(pixels), None) => assert!(pixels.iter().all(|value| value.is_finite()), "{name}"),
            (Either, None, Some(reason)) => assert!(!reason.is_empty(), "{name}"),
            _ => panic!("{name}: pixels {}, reason {reason:?}", pixels.is_some()),
        }
    }
}

#[test]
fn an_orientation_tag_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rotated.jpg");
    fs::write(&path, rotated_jpeg()).unwrap();
    let (good, _) = load(Arc::new(Split::of_files([&path])));
    let pixels = &good[0].1;
    let (first, last) = (pixels[0], pixels[pixels.len() - 3]);
    assert!((first - 200.0).abs() < 5.0 && last < 5.0, "upright: {first} above, {last} below");
    let (right, left) = (pixels[3 * (SIDE as usize - 1)], pixels[(3 * SIDE * (SIDE - 1)) as usize]);
    assert!(right > 195.0 && left < 5.0, "not turned: {right} above on the right, {left} below on the left");
}

#[test]
fn files_that_vanish_or_are_no_files_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class");
    fs::create_dir(&class).unwrap();
    for name in ["1.jpg", "2.jpg", "3.jpg"] {
        fs::write(class.join(name), encoded(&picture(), ImageFormat::Jpeg)).unwrap();
    }
    let split = Arc::new(Split::open(folder.path()).unwrap());
    fs::remove_file(class.join("1.jpg")).unwrap();
    fs::remove_file(class.join("2.jpg")).unwrap();
    fs::create_dir(class.join("2.jpg")).unwrap();
    let (good, bad) = load(split);
    assert_eq!((good.len(), bad.len()), (1, 2));
    assert!(bad[0].path.ends_with("1.jpg") && bad[0].reason.contains("No such file"), "{}", bad[0]);
    assert!(bad[1].path.ends_with("2.jpg") && bad[1].reason.contains("directory"), "{}", bad[1]);
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_pipes_and_unreadable_files_do_no_harm() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class");
    fs::create_dir(&class).unwrap();
    let jpeg = encoded(&picture(), ImageFormat::Jpeg);
    let odd = class.join(Path::new(OsStr::from_bytes(b"caf\xe9.jpg")));
    fs::write(&odd, &jpeg).unwrap();
    let closed = class.join("closed.jpg");
    fs::write(&closed, &jpeg).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // Whoever opened it would wait for a writer.
    assert!(std::process::Command::new("mkfifo").arg(class.join("pipe.jpg")).status().unwrap().success());
    let split = Arc::new(Split::open(folder.path()).unwrap());
    assert_eq!((split.len(), split.ignored()), (2, 1));
    // Root reads whatever it likes.
    let closed_to_us = fs::read(&closed).is_err();
    let (good, bad) = load(split);
    assert_eq!(good[0].0, odd);
    assert_eq!(bad.len(), usize::from(closed_to_us));
    assert!(bad.iter().all(|bad| bad.path == closed && bad.reason.contains("denied")));
}

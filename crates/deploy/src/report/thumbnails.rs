//! Small pictures of images, as part of a page.

use super::found::Found;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data::{Source, Split};
use image::ImageFormat;
use image::imageops::FilterType;
use serde_json::Value;
use std::collections::HashMap;
use std::io::Cursor;

/// Longer side in pixels.
const SIDE: u32 = 112;

/// An image as a page shows it.
#[derive(Debug)]
pub(super) struct Thumbnail {
    /// A data URI.
    pub source: String,
    pub name: String,
    pub about: String,
}

/// The images that take least and most, where gates look at them and the data set is still there.
pub(super) fn of(found: &Found) -> Vec<(&'static str, Vec<Thumbnail>)> {
    if !found.is_conditional() {
        return Vec::new();
    }
    let named = |key: &str| found.gates["macs"][key].as_array().cloned().unwrap_or_default();
    let data = found.config.data.path.as_deref();
    let split = data.and_then(|data| Split::folder(data, "val")).and_then(|folder| Split::open(&folder).ok());
    let Some(split) = split else { return Vec::new() };
    let by_name: HashMap<String, usize> =
        (0..split.len()).map(|item| (split.name(item).to_string_lossy().into_owned(), item)).collect();
    let all = |key| named(key).iter().filter_map(|image| thumbnail(&split, &by_name, image)).collect();
    vec![("Images that take least", all("cheapest")), ("Images that take most", all("dearest"))]
}

fn thumbnail(split: &Split, by_name: &HashMap<String, usize>, image: &Value) -> Option<Thumbnail> {
    let text = |key: &str| image[key].as_str().unwrap_or_default();
    let mut bytes = Vec::new();
    split.read(*by_name.get(text("image"))?, &mut bytes).ok()?;
    let small = image::load_from_memory(&bytes).ok()?.resize(SIDE, SIDE, FilterType::Triangle).to_rgb8();
    let mut jpeg = Cursor::new(Vec::new());
    small.write_to(&mut jpeg, ImageFormat::Jpeg).ok()?;
    let (class, predicted) = (text("class"), text("predicted"));
    let verdict = if class == predicted { String::new() } else { format!(", taken for {predicted}") };
    Some(Thumbnail {
        source: format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg.get_ref())),
        name: text("image").to_owned(),
        about: format!("{:.1} million MACs{verdict}", image["macs"].as_f64()? / 1e6),
    })
}

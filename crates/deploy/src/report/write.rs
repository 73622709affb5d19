//! Writing a report.

use super::chart::WIDTH;
use super::figures::{Figure, all};
use super::found::Found;
use super::html::escaped;
use super::{compare, page, thumbnails};
use crate::error::{Error, Result};
use std::fs;
use std::path::Path;
use trainer::write_atomically;

/// The name of the page in the folder of a run.
pub const PAGE: &str = "report.html";
/// The folder of the pictures in that of a run.
pub const FIGURES: &str = "figures";

/// Writes a page about one run, or about several side by side, to `path`, and its pictures as SVG into
/// `folder`. Files of the same name are replaced.
///
/// # Errors
/// If a chart cannot be drawn, or a file cannot be written.
pub fn write(runs: &[Found], path: &Path, folder: &Path) -> Result<()> {
    let (html, figures) = match runs {
        [one] => {
            let figures = all(one)?;
            (page::of_one(one, &figures, &thumbnails::of(one)), figures)
        }
        several => {
            let figures = compare::figures(several)?;
            (page::of_several(several, &figures), figures)
        }
    };
    fs::create_dir_all(folder).map_err(|source| Error::File { path: folder.to_owned(), source })?;
    for figure in &figures {
        write_atomically(&folder.join(figure.name).with_extension("svg"), titled(figure).as_bytes())?;
    }
    Ok(write_atomically(path, html.as_bytes())?)
}

/// Letters of a line of a title.
const LETTERS: usize = 62;

/// A picture by itself: on white, below its title.
fn titled(figure: &Figure) -> String {
    let svg = &figure.svg;
    let number = |key: &str| -> Option<f64> {
        let from = svg.find(&format!(" {key}=\""))? + key.len() + 3;
        svg[from..].split('"').next()?.parse().ok()
    };
    let (width, height) = (number("width").unwrap_or(WIDTH), number("height").unwrap_or(WIDTH));
    let lines = wrapped(&figure.title);
    let above = 16 * lines.len() + 14;
    let high = height + above as f64;
    let line = |(number, line): (usize, &String)| {
        format!("<text x=\"10\" y=\"{}\">{}</text>\n", 20 + 16 * number, escaped(line))
    };
    let text: String = lines.iter().enumerate().map(line).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{high}\" viewBox=\"0 0 {width} {high}\" \
         font-family=\"Roboto, Helvetica, Arial, sans-serif\">\n<title>{}</title>\n<rect width=\"{width}\" \
         height=\"{high}\" fill=\"#FFFFFF\"/>\n<g font-size=\"12.5\" font-weight=\"bold\" fill=\"#333A40\">\n{text}</g>\n\
         <g transform=\"translate(0 {above})\">{svg}</g>\n</svg>\n",
        escaped(&figure.title)
    )
}

fn wrapped(title: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in title.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        match line.is_empty() {
            true => line.push_str(word),
            false if line.chars().count() + 1 + word.chars().count() <= LETTERS => *line += &format!(" {word}"),
            false => lines.push(word.to_owned()),
        }
    }
    lines
}

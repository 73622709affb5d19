//! Charts as SVG: one look for all of them, colors that color-blind people tell apart.

use super::html::{allowed, escaped};
use crate::error::{Error, Result};
use charts_rs::{Color, HistogramChart, HorizontalBarChart, LineChart, ScatterChart, Theme, add_theme, get_theme};
use serde_json::{Value, json};
use std::sync::Once;

/// Width of a chart in pixels: that of a phone, so that texts stay readable there.
pub(super) const WIDTH: f64 = 440.0;

/// The colors of series, of which the first stands for what was found (Okabe and Ito), and of
/// texts and lines; a page gives each a name (`--NAME`), so that it looks well on dark paper too.
pub(super) const COLORS: [(&str, &str); 9] = [
    ("blue", "#0072B2"),
    ("orange", "#E69F00"),
    ("green", "#009E73"),
    ("red", "#D55E00"),
    ("pink", "#CC79A7"),
    ("sky", "#56B4E9"),
    ("gray", "#B9BEC4"),
    ("ink", "#333A40"),
    ("line", "#DADFE4"),
];

/// The color of that name.
pub(super) fn color(name: &str) -> &'static str {
    COLORS.iter().find(|(known, _)| *known == name).map_or("#333A40", |(_, color)| color)
}

/// A kind of chart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Lines,
    Bars,
    Points,
    Histogram,
}

/// Points of a line: (x, y).
pub(super) type Points = Vec<(f64, f64)>;

const THEME: &str = "gumbel-gates";

fn theme() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let [ink, line] = ["ink", "line"].map(|name| Color::from(color(name)));
        let mut theme = Theme::clone(&get_theme("light"));
        theme.background_color = Color::transparent();
        theme.width = WIDTH as f32;
        theme.title.font.color = ink;
        theme.title.font.size = 14.0;
        theme.legend.font.color = ink;
        theme.legend.font.size = 12.0;
        theme.x_axis.font.color = ink;
        theme.x_axis.font.size = 12.0;
        theme.x_axis.stroke_color = line;
        theme.y_axis.font.color = ink;
        theme.y_axis.font.size = 12.0;
        theme.grid.stroke_color = line;
        theme.series.colors = COLORS.iter().take(6).map(|(_, color)| Color::from(*color)).collect();
        theme.series.label.font.color = ink;
        theme.series.label.font.size = 11.0;
        add_theme(THEME, theme);
    });
}

/// Draws a chart from its options, which are those of the crate that draws it.
///
/// # Errors
/// If it does not take them.
pub(super) fn draw(kind: Kind, mut options: Value) -> Result<String> {
    theme();
    options["theme"] = json!(THEME);
    options["compact"] = json!(true);
    // Names are measured by one font and shown by another.
    options["x_axis_name_gap"] = json!(9);
    if options.get("legend_show").is_none() {
        options["legend_show"] = json!(options["series_list"].as_array().is_some_and(|series| series.len() > 1));
    }
    let options: String = readable(options).to_string();
    let svg = match kind {
        Kind::Lines => LineChart::from_json(&options).and_then(|chart| chart.svg()),
        Kind::Bars => HorizontalBarChart::from_json(&options).and_then(|chart| chart.svg()),
        Kind::Points => ScatterChart::from_json(&options).and_then(|chart| chart.svg()),
        Kind::Histogram => HistogramChart::from_json(&options).and_then(|chart| chart.svg()),
    };
    // Where that font is not there, one of its width.
    let fonts = |svg: String| svg.replace("\"Roboto\"", "\"Roboto, Helvetica, Arial, sans-serif\"");
    svg.map(fonts).map_err(|error| Error::Chart(error.to_string()))
}

/// Options without the letters that no SVG may hold.
fn readable(options: Value) -> Value {
    match options {
        Value::String(text) => Value::String(text.chars().map(allowed).collect()),
        Value::Array(all) => all.into_iter().map(readable).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, readable(value))).collect(),
        other => other,
    }
}

/// The same picture for a page: colors by their names, as wide as there is room.
pub(super) fn for_page(svg: &str, description: &str) -> String {
    let mut svg = svg.to_owned();
    for (name, color) in COLORS {
        for written in [color.to_owned(), color.to_lowercase()] {
            svg = svg.replace(&format!("\"{written}\""), &format!("\"var(--{name})\""));
        }
    }
    let role = format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(description));
    svg.replacen("<svg ", &role, 1)
}

/// Options of a chart of lines over a continuous axis. Each series has a name, a color, whether it
/// is dashed, and its points.
pub(super) fn lines(x: &str, y: &str, series: &[(&str, &str, bool, Points)]) -> Value {
    let list: Vec<Value> = series
        .iter()
        .map(|(name, _, dashed, points)| {
            let mut one = json!({
                "name": name,
                "data": points.iter().map(|(_, y)| *y).collect::<Vec<_>>(),
                "x_values": points.iter().map(|(x, _)| *x).collect::<Vec<_>>(),
            });
            if *dashed {
                one["stroke_dash_array"] = json!("5,4");
            }
            one
        })
        .collect();
    let all = || series.iter().flat_map(|(.., points)| points.iter());
    let last = all().map(|(x, _)| *x).fold(f64::MIN, f64::max);
    let first = all().map(|(x, _)| *x).fold(f64::MAX, f64::min);
    let values: Vec<f64> = all().map(|(_, y)| *y).collect();
    json!({
        "height": 260,
        "x_axis_title": x,
        "x_axis_type": "value",
        "x_axis_min": first,
        "x_axis_max": last,
        "y_axis_configs": [{ "axis_title": y, "axis_split_number": 5, "axis_min": bottom(&values) }],
        "series_colors": series.iter().map(|(_, name, ..)| color(name)).collect::<Vec<_>>(),
        "series_symbol": { "type": "none" },
        "series_list": list,
    })
}

/// Where an axis begins: at 0, unless all values are far above it.
fn bottom(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    if least > 0.5 * most { (least / 10.0).floor() * 10.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_for_a_page_has_no_color_of_its_own() {
        let series = [("train", "blue", false, vec![(0.0, 1.0), (5.0, 0.5)])];
        let svg = draw(Kind::Lines, lines("epoch", "loss", &series)).unwrap();
        assert!(svg.contains(color("blue")) || svg.contains(&color("blue").to_lowercase()), "{svg}");
        let page = for_page(&svg, "loss \"over\" epochs");
        assert!(page.contains("var(--blue)") && page.contains("loss &quot;over&quot; epochs"), "{page}");
        let colors = page.match_indices("\"#").count();
        assert_eq!(colors, 0, "{page}");
    }

    #[test]
    fn names_with_odd_letters_are_drawn_in_every_kind_of_chart() {
        let bars = json!({ "x_axis_data": ["a\u{1}<b>"], "series_list": [{ "name": "x", "data": [1.0] }] });
        let points =
            json!({ "series_list": [{ "name": "a\u{1}", "data": [1.0, 2.0] }, { "name": "b", "data": [2.0, 1.0] }] });
        let sample = json!({ "series_list": [{ "name": "x", "data": [1.0, 2.0, 2.5] }] });
        for (kind, options) in [(Kind::Bars, bars), (Kind::Points, points), (Kind::Histogram, sample)] {
            let page = for_page(&draw(kind, options).unwrap(), "");
            assert!(!page.contains('\u{1}') && !page.contains("<b>"), "{page}");
            // The inside of a ring is seen through.
            let page = page.replace("fill-opacity=\"0\" fill=\"#000\"", "");
            assert!(!page.contains("\"#"), "a color of its own: {page}");
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let error = draw(Kind::Lines, json!({ "series_lst": [] })).unwrap_err().to_string();
        assert!(error.contains("series_lst"), "{error}");
    }
}

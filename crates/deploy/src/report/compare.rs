//! Several runs side by side.

use super::chart::{Kind, color, draw};
use super::figures::Figure;
use super::found::Found;
use crate::error::Result;
use serde_json::{Value, json};

/// What the network is called that was made smaller.
const DENSE: &str = "dense";

/// Accuracy against what each run spends: MACs, and time where it was measured.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn figures(all: &[Found]) -> Result<Vec<Figure>> {
    let names = names(all);
    let macs: Vec<_> =
        all.iter().zip(&names).map(|(found, name)| (name.as_str(), found.macs_share(), found.top1())).collect();
    let dense = all.first().filter(|_| is_of_one_network(all));
    let dense = dense.and_then(|found| Some(found.shrunk.as_ref()?.1.dense.top1));
    let mut figures = vec![pareto("pareto-macs", "MACs", &macs, dense)?];
    let time = |found: &Found| -> Option<f64> { found.shrunk.as_ref()?.1.time_share() };
    let times: Vec<_> =
        all.iter().zip(&names).filter_map(|(found, name)| Some((name.as_str(), time(found)?, found.top1()))).collect();
    if !times.is_empty() {
        figures.push(pareto("pareto-time", "time", &times, dense)?);
    }
    Ok(figures)
}

/// Whether all were made from one dense network, as far as what it takes and gives tells.
pub(super) fn is_of_one_network(all: &[Found]) -> bool {
    let dense = |found: &Found| {
        let (plan, shrunk) = found.shrunk.as_ref()?;
        Some((plan.asked.network.clone(), shrunk.dense.top1, shrunk.dense.macs))
    };
    let first = all.first().and_then(dense);
    first.is_some() && all.iter().all(|found| dense(found) == first)
}

/// What runs are called: by their folders, numbered where those have the same name.
pub(super) fn names(all: &[Found]) -> Vec<String> {
    let same = |name: &str, among: &[Found]| among.iter().filter(|found| found.name == name).count();
    let name = |(number, found): (usize, &Found)| match same(&found.name, all) {
        1 if found.name != DENSE => found.name.clone(),
        _ => format!("{} ({})", found.name, same(&found.name, &all[..=number])),
    };
    all.iter().enumerate().map(name).collect()
}

/// Each run by the share that it spends and its top-1; the dense network, if it is known, at 100 %.
fn pareto(name: &'static str, of: &str, runs: &[(&str, f64, f64)], dense: Option<f64>) -> Result<Figure> {
    let colors = ["blue", "orange", "green", "red", "pink", "sky"];
    let mut points: Vec<(&str, f64, f64)> = runs.to_vec();
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    points.extend(dense.map(|top1| (DENSE, 1.0, top1)));
    let round = |share: f64| (1e4 * share).round() / 100.0;
    let series: Vec<Value> = points
        .iter()
        .map(|(name, spent, top1)| json!({ "name": name, "data": [round(*spent), round(*top1)] }))
        .collect();
    let values = || points.iter().map(|(.., top1)| 100.0 * top1);
    let (lowest, highest) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    // Whole numbers on the axis.
    let step = if highest - lowest > 30.0 { 10.0 } else { 5.0 };
    let least = ((lowest - 0.5) / step).floor().max(0.0) * step;
    let most = ((highest + 0.5) / step).ceil() * step;
    let parts = ((most - least) / step).round() as u32;
    // Some take more than the dense network does.
    let most_spent = points.iter().map(|(_, spent, _)| 100.0 * spent).fold(100.0, f64::max);
    let widest = 20 * (most_spent / 20.0).ceil() as u32;
    let colors: Vec<&str> = (0..points.len())
        .map(|number| if points[number].0 == DENSE { "ink" } else { colors[number % colors.len()] })
        .map(color)
        .collect();
    let (cheapest, dearest) = (points.first(), points.last());
    let title = match (cheapest, dearest) {
        (Some(first), Some(last)) if points.len() > 1 => format!(
            "From {:.0}% to {:.0}% of the {of}, top-1 goes from {:.1}% to {:.1}%",
            100.0 * first.1,
            100.0 * last.1,
            100.0 * first.2,
            100.0 * last.2
        ),
        _ => format!("Top-1 against {of}"),
    };
    let options = json!({
        "width": super::chart::WIDTH,
        "height": 340,
        "legend_position": "bottom",
        "legend_show": true,
        "legend_category": "circle",
        "x_axis_title": format!("{of}, % of dense"),
        "y_axis_configs": [{ "axis_title": "top-1, %", "axis_min": least, "axis_max": most, "axis_split_number": parts }],
        "x_axis_config": { "axis_min": 0, "axis_max": widest, "axis_split_number": widest / 20 },
        "series_symbol_sizes": vec![6; points.len()],
        "series_colors": colors,
        "series_list": series,
    });
    let about = format!("top-1 of every run against the share of the dense network's {of} that it takes");
    Ok(Figure { name, title, about, svg: draw(Kind::Points, options)? })
}

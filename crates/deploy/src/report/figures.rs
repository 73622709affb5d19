//! The pictures of a report. Each says in its title what there is to see.

use super::chart::{Kind, Points, color, draw, lines};
use super::found::{Class, Found, Layer};
use crate::error::Result;
use crate::shrink::BlockTime;
use serde_json::{Value, json};

/// A picture.
#[derive(Debug)]
pub(super) struct Figure {
    /// Of its file, without an ending.
    pub name: &'static str,
    /// The finding.
    pub title: String,
    /// What the picture shows, for those who do not see it.
    pub about: String,
    pub svg: String,
}

/// Pixels of a row of bars.
const ROW: usize = 20;
/// Classes that are shown of either end.
const CLASSES: usize = 12;
/// Blocks whose open rates over epochs are told apart.
const MOST_LINES: usize = 6;

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

impl Figure {
    fn new(name: &'static str, title: String, about: &str, kind: Kind, mut options: Value) -> Result<Self> {
        options["width"] = options.get("width").cloned().unwrap_or(json!(super::chart::WIDTH));
        Ok(Self { name, title, about: about.to_owned(), svg: draw(kind, options)? })
    }
}

/// All pictures that there is something to show in.
///
/// # Errors
/// If one cannot be drawn.
pub(super) fn all(found: &Found) -> Result<Vec<Figure>> {
    let made = [
        widths(found)?,
        blocks(found)?,
        time(found)?,
        block_times(found)?,
        top1(found)?,
        loss(found)?,
        budget(found)?,
        open_rates(found)?,
        images(found)?,
        classes(found)?,
        learning_rate(found)?,
    ];
    Ok(made.into_iter().flatten().collect())
}

/// Rows from the top down: bars are drawn from the bottom up.
fn downwards<T: Clone>(rows: &[T]) -> Vec<T> {
    rows.iter().rev().cloned().collect()
}

/// Rows of two parts each: what is left, and what is gone.
fn two_parts(names: &[String], left: &[f64], gone: &[f64], axis: &str) -> Value {
    let (names, left, gone) = (downwards(names), downwards(left), downwards(gone));
    json!({
        "height": 70 + ROW * names.len().max(2),
        "x_axis_data": names,
        "x_axis_title": axis,
        "series_colors": [color("blue"), color("gray")],
        "series_list": [
            { "name": "left", "data": left, "stack": "all" },
            { "name": "gone", "data": gone, "stack": "all" },
        ],
    })
}

fn widths(found: &Found) -> Result<Option<Figure>> {
    let layers = found.layers();
    let before: f64 = layers.iter().map(|layer| layer.before as f64).sum();
    let after: f64 = layers.iter().map(|layer| layer.after).sum();
    let share = |layer: &Layer| layer.after / layer.before.max(1) as f64;
    let least = layers.iter().min_by(|a, b| share(a).total_cmp(&share(b)));
    let Some(least) = least.filter(|_| after < before) else { return Ok(None) };
    let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
    let left: Vec<f64> = layers.iter().map(|layer| (10.0 * layer.after).round() / 10.0).collect();
    let gone: Vec<f64> = layers.iter().zip(&left).map(|(layer, left)| layer.before as f64 - left).collect();
    let of: f64 = after / before;
    let narrowest = match least.after {
        0.0 => format!("{} is gone", least.name),
        after => format!("{} has {after:.0} of {}", least.name, least.before),
    };
    let title = format!("{} of the filters are left; {narrowest}", percent(of));
    let options = two_parts(&names, &left, &gone, "filters");
    let about = "filters of every convolution, those that are left and those that are gone";
    Ok(Some(Figure::new("widths", title, about, Kind::Bars, options)?))
}

fn blocks(found: &Found) -> Result<Option<Figure>> {
    let blocks = &found.costs[0].blocks;
    let used = &found.evaluation.block_macs;
    if blocks.len() != used.len() || found.specs[0].gate_count() == 0 {
        return Ok(None);
    }
    let millions = |macs: f64| (macs / 1e4).round() / 100.0;
    let names: Vec<String> = blocks.iter().map(|block| block.name.clone()).collect();
    let left: Vec<f64> = used.iter().map(|&macs| millions(macs)).collect();
    let gone: Vec<f64> = blocks.iter().zip(used).map(|(block, used)| (block.macs() as f64 - used).max(0.0)).collect();
    let most = gone.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    let Some((most, saved)) = most.filter(|(_, saved)| **saved > 0.0) else { return Ok(None) };
    let title = format!(
        "{} of the MACs are left; {} gave up most, {:.1} million",
        percent(found.macs_share()),
        names[most],
        saved / 1e6
    );
    let gone: Vec<f64> = gone.iter().map(|&macs| millions(macs)).collect();
    let options = two_parts(&names, &left, &gone, "million MACs per image");
    let about = "multiply-accumulates of every block, those that are left and those that are gone";
    Ok(Some(Figure::new("macs", title, about, Kind::Bars, options)?))
}

fn time(found: &Found) -> Result<Option<Figure>> {
    let Some((plan, shrunk)) = &found.shrunk else { return Ok(None) };
    let (Some(dense), Some(small), Some(share)) = (shrunk.dense.time, shrunk.small.time, shrunk.time_share()) else {
        return Ok(None);
    };
    let asked = &plan.asked;
    let (unit, factor) = unit(dense.median.max(small.median));
    let [dense, small] = [dense.median, small.median].map(|time| factor * time);
    let images = if asked.batch == 1 { "An image".to_owned() } else { format!("A batch of {}", asked.batch) };
    let title = format!("{images} takes {} of the dense network's time", percent(share));
    let (end, parts) = axis(1.2 * dense.max(small));
    let options = json!({
        "height": 70 + 2 * 30,
        "x_axis_data": ["smaller", "dense"],
        "x_axis_title": format!("{unit} in {}", runtime(&asked.runtime)),
        // Room for what is written behind the longest bar.
        "y_axis_configs": [{ "axis_min": 0, "axis_max": end, "axis_split_number": parts }],
        "series_colors": [color("blue")],
        "series_list": [{
            "name": "median",
            "label_show": true,
            "data": [hundredths(small), hundredths(dense)],
            "colors": [color("blue"), color("gray")],
        }],
    });
    let about = "median time of a batch, dense and smaller, in the runtime";
    Ok(Some(Figure::new("time", title, about, Kind::Bars, options)?))
}

/// What each block takes: measured dense and smaller, and what was predicted.
fn block_times(found: &Found) -> Result<Option<Figure>> {
    let Some((plan, shrunk)) = &found.shrunk else { return Ok(None) };
    let blocks = &shrunk.blocks;
    let measured = || blocks.iter().filter_map(|block| Some((&block.name, block.measured?)));
    let saved = |[dense, small]: [f64; 2]| dense - small;
    let Some((most, times)) = measured().max_by(|(_, a), (_, b)| saved(*a).total_cmp(&saved(*b))) else {
        return Ok(None);
    };
    let title = match saved(times) {
        none if none <= 0.0 => "No block takes less time than in the dense network".to_owned(),
        saved => format!("{most} saves most time: {saved:.2} of {:.2} ms", times[0]),
    };
    let most = measured().map(|(_, times)| times[0].max(times[1])).fold(0.0, f64::max);
    let (unit, factor) = unit(most);
    let names: Vec<&String> = blocks.iter().map(|block| &block.name).collect();
    let of = |value: &dyn Fn(&BlockTime) -> Option<f64>| -> Vec<Option<f64>> {
        downwards(&blocks.iter().map(|block| value(block).map(|time| hundredths(factor * time))).collect::<Vec<_>>())
    };
    let mut series = vec![json!({ "name": "dense", "data": of(&|block| Some(block.measured?[0])) })];
    let mut colors = vec![color("gray")];
    if blocks.iter().any(|block| block.predicted.is_some()) {
        series.push(json!({ "name": "predicted", "data": of(&|block| Some(block.predicted?[1])) }));
        colors.push(color("sky"));
    }
    series.push(json!({ "name": "smaller", "data": of(&|block| Some(block.measured?[1])) }));
    colors.push(color("blue"));
    let options = json!({
        "height": 70 + (ROW + 10) * names.len(),
        "x_axis_data": downwards(&names),
        "x_axis_title": format!("{unit} in {}", runtime(&plan.asked.runtime)),
        "series_colors": colors,
        "series_list": series,
    });
    let about = "time of every block, dense, as predicted, and in the smaller network";
    Ok(Some(Figure::new("block-times", title, about, Kind::Bars, options)?))
}

/// The unit that times of so many milliseconds are read well in, and how many of it one is.
fn unit(most: f64) -> (&'static str, f64) {
    if most < 2.0 { ("microseconds", 1e3) } else { ("milliseconds", 1.0) }
}

fn hundredths(value: f64) -> f64 {
    (100.0 * value).round() / 100.0
}

/// Where an axis ends that has room for `value`, and how many round steps lead there.
fn axis(value: f64) -> (f64, u32) {
    let rough = value.max(1e-9) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let parts = (value / step).ceil().max(1.0);
    (parts * step, parts as u32)
}

/// What people call a runtime.
pub(super) fn runtime(key: &str) -> String {
    key.parse::<runtime::Runtime>().map_or_else(|_| key.to_owned(), |runtime| runtime.to_string())
}

/// Steps of an epoch, from the last one.
fn steps_per_epoch(found: &Found) -> f64 {
    let last = found.epochs.last();
    let of = |key: &str| last.and_then(|line| line[key].as_f64());
    of("step").zip(of("epoch")).map_or(1.0, |(step, epoch)| (step / epoch.max(1.0)).max(1.0))
}

/// A value of the lines of steps, over epochs.
fn of_steps(found: &Found, value: impl Fn(&Value) -> Option<f64>) -> Points {
    let each = steps_per_epoch(found);
    let point = |line: &Value| Some((line["step"].as_f64()? / each, value(line)?));
    found.steps.iter().filter_map(point).collect()
}

/// A value of the lines of epochs.
fn of_epochs(found: &Found, value: impl Fn(&Value) -> Option<f64>) -> Points {
    found.epochs.iter().filter_map(|line| Some((line["epoch"].as_f64()?, value(line)?))).collect()
}

fn curves(
    found: &Found,
    (name, title, about): (&'static str, String, &str),
    axis: &str,
    series: &[(&str, &str, bool, Points)],
) -> Result<Option<Figure>> {
    if found.epochs.len() < 2 && series.iter().all(|(.., points)| points.len() < 2) {
        return Ok(None);
    }
    let drawn: Vec<_> = series.iter().filter(|(.., points)| !points.is_empty()).cloned().collect();
    Ok(Some(Figure::new(name, title, about, Kind::Lines, lines("epochs", axis, &drawn))?))
}

fn top1(found: &Found) -> Result<Option<Figure>> {
    let train = of_steps(found, |line| Some(100.0 * line["train"]["top1"].as_f64()?));
    let val = of_epochs(found, |line| Some(100.0 * line["val"]["top1"].as_f64()?));
    let title = format!("Top-1 is {} in the epoch that is kept", percent(found.evaluation.top1));
    let about = "top-1 of training and validation over epochs";
    let series = [("train", "sky", false, train), ("val", "blue", false, val)];
    curves(found, ("top1", title, about), "top-1, %", &series)
}

fn loss(found: &Found) -> Result<Option<Figure>> {
    let train = of_steps(found, |line| line["train"]["cross_entropy"].as_f64());
    let val = of_epochs(found, |line| line["val"]["cross_entropy"].as_f64());
    let title = match val.last() {
        Some((_, last)) => format!("Cross entropy of the validation images ends at {last:.3}"),
        None => "Cross entropy of the training images".to_owned(),
    };
    let about = "cross entropy of training and validation over epochs";
    let series = [("train", "sky", false, train), ("val", "blue", false, val)];
    curves(found, ("loss", title, about), "cross entropy", &series)
}

fn budget(found: &Found) -> Result<Option<Figure>> {
    if found.specs[0].gate_count() == 0 {
        return Ok(None);
    }
    let dense = found.costs[0].dense.max(1) as f64;
    let train = of_steps(found, |line| Some(100.0 * line["train"]["macs"].as_f64()? / dense));
    let val = of_epochs(found, |line| Some(100.0 * line["val"]["macs"].as_f64()? / dense));
    let target = of_steps(found, |line| Some(100.0 * line["target"].as_f64()?));
    let is_of_macs = found.config.gates.weighting == trainer::config::Weighting::Network;
    let target = if is_of_macs { target } else { Vec::new() };
    let title = format!("MACs settle at {} of the dense network's", percent(found.macs_share()));
    let about = "share of the dense network's MACs over epochs, and what it was held to";
    let series = [("train", "sky", false, train), ("val", "blue", false, val), ("target", "red", true, target)];
    curves(found, ("budget", title, about), "MACs, % of dense", &series)
}

fn learning_rate(found: &Found) -> Result<Option<Figure>> {
    // Axes are written with two decimals.
    let rates = of_steps(found, |line| Some(1e3 * line["learning_rate"].as_f64()?));
    let most = rates.iter().map(|(_, rate)| rate / 1e3).fold(0.0, f64::max);
    let last = rates.last().map_or(0.0, |(_, rate)| rate / 1e3);
    let title = match last < most {
        true => format!("The learning rate falls from {most:.2e} to {last:.2e}"),
        false => format!("The learning rate ends at {last:.2e}"),
    };
    let about = "learning rate over epochs";
    curves(found, ("learning-rate", title, about), "learning rate, thousandths", &[("rate", "green", false, rates)])
}

/// Open rates of blocks over epochs, of those that moved most.
fn open_rates(found: &Found) -> Result<Option<Figure>> {
    let sites = found.specs[0].gate_sites().map(|(block, site)| (block.name.as_str(), site.count()));
    let mut blocks: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    let mut first = 0;
    for (name, count) in sites {
        match blocks.last_mut().filter(|(last, _)| *last == name) {
            Some((_, range)) => range.end += count,
            None => blocks.push((name, first..first + count)),
        }
        first += count;
    }
    let of = |range: &std::ops::Range<usize>| {
        of_epochs(found, |line| {
            let rates = line["rates"].as_array()?.get(range.clone())?;
            let sum: f64 = rates.iter().filter_map(Value::as_f64).sum();
            Some(100.0 * sum / rates.len().max(1) as f64)
        })
    };
    let mut all: Vec<(&str, Points)> = blocks.iter().map(|(name, range)| (*name, of(range))).collect();
    let moved = |points: &Points| {
        let values = || points.iter().map(|(_, rate)| *rate);
        values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min)
    };
    all.retain(|(_, points)| points.len() > 1 && moved(points) > 0.5);
    all.sort_by(|(_, a), (_, b)| moved(b).total_cmp(&moved(a)));
    all.truncate(MOST_LINES);
    let Some((name, points)) = all.first() else { return Ok(None) };
    let (from, to) = (points.first().map_or(0.0, |p| p.1), points.last().map_or(0.0, |p| p.1));
    let title = format!("The gates of {name} moved most, from {from:.0}% open to {to:.0}%");
    let colors = ["blue", "orange", "green", "red", "pink", "sky"];
    let series: Vec<_> =
        all.iter().zip(colors).map(|((name, points), color)| (*name, color, false, points.clone())).collect();
    curves(found, ("open-rates", title, "open rates of blocks over epochs"), "open, %", &series)
}

/// MACs over images, where gates look at them.
fn images(found: &Found) -> Result<Option<Figure>> {
    let (first, last) = extremes(&found.images);
    if !found.is_conditional() || last - first < 1e-9 {
        return Ok(None);
    }
    let title =
        format!("After the last epoch images take {} to {} of the dense network's MACs", percent(first), percent(last));
    let options = json!({
        "height": 240,
        "percent": true,
        "x_axis_title": "MACs, % of dense",
        "series_colors": [color("blue")],
        "series_list": [{ "name": "images", "data": found.images.iter().map(|s| 100.0 * s).collect::<Vec<_>>() }],
    });
    let about = "how many images take what share of the dense network's multiply-accumulates";
    Ok(Some(Figure::new("images", title, about, Kind::Histogram, options)?))
}

fn extremes(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(f64::MIN, f64::max))
}

/// Top-1 by class: all of a few, or those at both ends.
fn classes(found: &Found) -> Result<Option<Figure>> {
    let share = |class: &Class| class.right as f64 / class.images.max(1) as f64;
    let mut classes: Vec<&Class> = found.classes.iter().collect();
    classes.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let (Some(best), Some(worst)) = (classes.first(), classes.last()) else { return Ok(None) };
    let when = if found.trained == 0 { "" } else { "After the last epoch " };
    let title = match classes.len() {
        1 => format!("{when}{} of {} are right", percent(share(best)), best.name),
        _ => format!(
            "{when}{} of {} are right and {} of {}",
            percent(share(best)),
            best.name,
            percent(share(worst)),
            worst.name
        ),
    };
    if classes.len() > 2 * CLASSES {
        classes.drain(CLASSES..classes.len() - CLASSES);
    }
    classes.reverse();
    let data: Vec<f64> = classes.iter().map(|class| (1e3 * share(class)).round() / 10.0).collect();
    let options = json!({
        "height": 60 + ROW * classes.len(),
        "x_axis_data": classes.iter().map(|class| &class.name).collect::<Vec<_>>(),
        "x_axis_title": "top-1, %",
        "y_axis_configs": [{ "axis_min": 0, "axis_max": 100, "axis_split_number": 5 }],
        "series_colors": [color("blue")],
        "series_list": [{ "name": "top-1", "data": data }],
    });
    Ok(Some(Figure::new("classes", title, "top-1 by class, best first", Kind::Bars, options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_behind_its_value_in_a_few_round_steps() {
        for (value, expected) in [(919.0, (1000.0, 5)), (11.3, (15.0, 3)), (1.0, (1.0, 5)), (0.034, (0.04, 4))] {
            let (end, parts) = axis(value);
            assert!((end - expected.0).abs() < 1e-9 && parts == expected.1, "{value}: {end} in {parts}");
        }
    }
}

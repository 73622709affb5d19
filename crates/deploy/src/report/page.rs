//! The page itself: HTML that loads nothing.

use super::chart::for_page;
use super::compare::{is_of_one_network, names};
use super::figures::{Figure, percent, runtime};
use super::found::Found;
use super::html::escaped;
use super::thumbnails::Thumbnail;
use crate::shrink::{Shrunk, Side, Spread};

const STYLE: &str = include_str!("style.css");

/// Points of top-1 that were lost or won.
fn points(before: f64, after: f64) -> String {
    match 100.0 * (after - before) {
        less if less <= -0.05 => format!("{:.1} points less", -less),
        more if more >= 0.05 => format!("{more:.1} points more"),
        _ => "no points less".to_owned(),
    }
}

fn millions(macs: f64) -> String {
    if macs >= 1e9 { format!("{:.3} G", macs / 1e9) } else { format!("{:.2} M", macs / 1e6) }
}

/// Rows of cells, the first row the heading.
fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<div class=\"wide\"><table>\n");
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        html += &format!("<tr>{cells}</tr>\n");
    }
    html + "</table></div>\n"
}

fn pictures(figures: &[Figure]) -> String {
    let one = |figure: &Figure| {
        let (title, svg) = (escaped(&figure.title), for_page(&figure.svg, &figure.about));
        format!("<figure id=\"{}\"><figcaption>{title}</figcaption>\n{svg}\n</figure>\n", figure.name)
    };
    format!("<div class=\"figures\">\n{}</div>\n", figures.iter().map(one).collect::<String>())
}

fn whole(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// The page of one run.
pub(super) fn of_one(found: &Found, figures: &[Figure], thumbnails: &[(&str, Vec<Thumbnail>)]) -> String {
    let arch = &found.config.network.arch;
    let mut body = String::new();
    let title = match &found.shrunk {
        Some((_, shrunk)) => {
            let time =
                shrunk.time_share().map_or(String::new(), |share| format!(" and {} of the time", percent(share)));
            let (dense, small) = (shrunk.dense.top1, shrunk.small.top1);
            let macs = percent(shrunk.small.macs / shrunk.dense.macs.max(1.0));
            format!("{arch} at {macs} of the MACs{time}: top-1 {}, {} than dense", percent(small), points(dense, small))
        }
        None if found.specs[0].gate_count() == 0 => format!("{arch}: top-1 {}", percent(found.top1())),
        None => format!("{arch} at {} of the MACs: top-1 {}", percent(found.macs_share()), percent(found.top1())),
    };
    body += &asked(found);
    if let Some((plan, shrunk)) = &found.shrunk {
        for wrong in shrunk.misprediction().into_iter().chain(shrunk.excess(plan.asked.budget)) {
            body += &format!("<p class=\"wrong\">{}</p>\n", escaped(&wrong));
        }
        body += &before_and_after(shrunk);
    } else {
        body += &facts(found);
    }
    body += &pictures(figures);
    for (heading, images) in thumbnails.iter().filter(|(_, images)| !images.is_empty()) {
        let one = |image: &Thumbnail| {
            let (source, name, about) = (&image.source, escaped(&image.name), escaped(&image.about));
            format!("<figure><img src=\"{source}\" alt=\"{name}\">{name}<br>{about}</figure>\n")
        };
        let all: String = images.iter().map(one).collect();
        body += &format!("<h2>{}</h2>\n<div class=\"images\">\n{all}</div>\n", escaped(heading));
    }
    if let Ok(config) = found.config.to_toml() {
        body += &format!("<details><summary>The configuration</summary>\n<pre>{}</pre></details>\n", escaped(&config));
    }
    whole(&title, &body)
}

/// What was asked for.
fn asked(found: &Found) -> String {
    let trained = match found.trained {
        0 => "nothing was trained".to_owned(),
        1 => "1 epoch was trained".to_owned(),
        epochs => format!("{epochs} epochs were trained"),
    };
    let text = match &found.shrunk {
        Some((plan, shrunk)) => format!(
            "Asked for {} in {} with batches of {}; {trained}. Validation images: {}. Timed on {}, threads: {}.",
            plan.asked.budget,
            runtime(&plan.asked.runtime),
            plan.asked.batch,
            shrunk.images,
            shrunk.machine,
            shrunk.threads
        ),
        None if found.specs[0].gate_count() == 0 => format!("No gates; {trained}."),
        None => {
            let target = percent(found.config.gates.target.last());
            let of = match found.config.gates.weighting {
                trainer::config::Weighting::Network => "of the network's MACs",
                trainer::config::Weighting::CostTable => "of the network's cost by its table",
                trainer::config::Weighting::Macs => "of the MACs that gates decide about",
                trainer::config::Weighting::Gates => "of the gates open",
            };
            format!("Asked for {target} {of}; {trained}. Validation images: {}.", found.evaluation.images)
        }
    };
    format!("<p class=\"quiet\">{}</p>\n", escaped(&text))
}

fn before_and_after(shrunk: &Shrunk) -> String {
    let Shrunk { dense, small, .. } = shrunk;
    let mut note = String::new();
    let row = |name: &str, before: String, after: String, change: String| vec![name.to_owned(), before, after, change];
    let share = |of: fn(&Side) -> f64| percent(of(small) / of(dense).max(1.0));
    let mut rows = vec![row("", "dense".into(), "smaller".into(), "change".into())];
    rows.push(row(
        "top-1",
        percent(dense.top1),
        percent(small.top1),
        points(dense.top1, small.top1).replace(" points", ""),
    ));
    rows.push(row("MACs", millions(dense.macs), millions(small.macs), share(|side| side.macs)));
    let parameters = |side: &Side| format!("{:.2} M", side.parameters as f64 / 1e6);
    rows.push(row("parameters", parameters(dense), parameters(small), share(|side| side.parameters as f64)));
    let size = |side: &Side| format!("{:.1} MB", side.bytes as f64 / 1e6);
    rows.push(row("ONNX file", size(dense), size(small), share(|side| side.bytes as f64)));
    if let (Some(before), Some(after), Some(share)) = (dense.time, small.time, shrunk.time_share()) {
        let median = |time: Spread| format!("{:.2} ms", time.median);
        rows.push(row("time", median(before), median(after), percent(share)));
        let between = |time: Spread| format!("{:.2} and {:.2}", time.low, time.high);
        note = format!(
            " Times are medians; the middle half of them lies between {} ms, and between {} ms.",
            between(before),
            between(after)
        );
    }
    let differences: Vec<String> =
        shrunk.differences.iter().map(|(runtime, found)| format!("{found:.1e} in {runtime}")).collect();
    table(&rows)
        + &format!(
            "<p class=\"quiet\">Logits of the exported files differ by {} of the largest.{note}</p>\n",
            escaped(&differences.join(" and "))
        )
}

fn facts(found: &Found) -> String {
    let [gated, deployed] = &found.costs;
    let mut rows = vec![vec![String::new(), "dense".into(), "now".into(), "share".into()]];
    let (macs, dense) = (found.evaluation.macs, gated.dense as f64);
    rows.push(vec!["MACs".into(), millions(dense), millions(macs), percent(macs / dense.max(1.0))]);
    let (before, after) = (gated.parameters as f64, deployed.parameters as f64);
    let parameters = |count: f64| format!("{:.2} M", count / 1e6);
    rows.push(vec!["parameters".into(), parameters(before), parameters(after), percent(after / before.max(1.0))]);
    table(&rows)
}

/// The page of several runs.
pub(super) fn of_several(all: &[Found], figures: &[Figure]) -> String {
    let heading = ["run", "top-1", "MACs", "of dense", "parameters", "time", "of dense"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    if let Some((_, shrunk)) = all.first().and_then(|found| found.shrunk.as_ref()).filter(|_| is_of_one_network(all)) {
        let Side { top1, macs, parameters, time, .. } = shrunk.dense;
        let ms = time.map_or_else(|| "–".into(), |time| format!("{:.2} ms", time.median));
        let parameters = format!("{:.2} M", parameters as f64 / 1e6);
        rows.push(vec!["dense".into(), percent(top1), millions(macs), percent(1.0), parameters, ms, percent(1.0)]);
    }
    for (found, name) in all.iter().zip(names(all)) {
        let shrunk = found.shrunk.as_ref().map(|(_, shrunk)| shrunk);
        let time = shrunk.and_then(|shrunk| shrunk.small.time).map(|time| format!("{:.2} ms", time.median));
        let share = shrunk.and_then(Shrunk::time_share).map(percent);
        rows.push(vec![
            name,
            percent(found.top1()),
            millions(found.evaluation.macs),
            percent(found.macs_share()),
            format!("{:.2} M", found.costs[1].parameters as f64 / 1e6),
            time.unwrap_or_else(|| "–".into()),
            share.unwrap_or_else(|| "–".into()),
        ]);
    }
    // The cheapest of the best.
    let by_use = |(a, _): &(&Found, String), (b, _): &(&Found, String)| {
        a.top1().total_cmp(&b.top1()).then(b.macs_share().total_cmp(&a.macs_share()))
    };
    let title = all.iter().zip(names(all)).max_by(by_use).map_or("No runs".to_owned(), |(best, name)| {
        let (top1, macs) = (percent(best.top1()), percent(best.macs_share()));
        format!("{} runs: {name} reaches most top-1 for its cost, {top1} at {macs} of the MACs", all.len())
    });
    whole(&title, &(table(&rows) + &pictures(figures)))
}

//! What gates learned, as files that plotting tools read.

use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::results::evaluation::Evaluation;
use crate::results::gate_use::{GateState, GateUse, ImageUse, Polarization};
use crate::results::names::gate_names;
use arch::{Cost, NetSpec, Site};
use data::Source;
use serde_json::{Value, json};
use std::path::Path;

/// Images named at either end of the distribution of MACs.
const NAMED: usize = 10;
/// Bars of its histogram.
const BARS: usize = 20;

/// Writes what the gates did in `evaluation`, which must have recorded it, into `folder`:
///
/// - `gates.csv`: per gate its site, the channels and MACs it decides about, its open rate and its
///   state;
/// - `classes.csv`: per class its images and the open rate of every gate;
/// - `images.csv`: per image its class, the predicted class, MACs and open gates;
/// - `summary.json`: polarization in all and per block, MACs per image as a distribution, the
///   cheapest and the dearest images.
///
/// Files of the same name are replaced. Without gates nothing is written.
///
/// # Errors
/// If a file cannot be written.
pub fn write_gate_report(
    folder: &Path,
    spec: &NetSpec,
    cost: &Cost,
    source: &dyn Source,
    evaluation: &Evaluation,
) -> Result<()> {
    let Some(gate_use) = &evaluation.gate_use else { return Ok(()) };
    let failed = |source| Error::Write { path: folder.to_owned(), bytes: None, source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let report = Report { spec, cost, source, evaluation, gate_use, names: gate_names(spec) };
    write_atomically(&folder.join("gates.csv"), &csv(report.gates()).map_err(failed)?)?;
    write_atomically(&folder.join("classes.csv"), &csv(report.classes()).map_err(failed)?)?;
    write_atomically(&folder.join("images.csv"), &csv(report.images()).map_err(failed)?)?;
    write_atomically(&folder.join("summary.json"), format!("{:#}\n", report.summary()).as_bytes())
}

fn csv(rows: Vec<Vec<String>>) -> std::io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(csv::IntoInnerError::into_error)
}

struct Report<'a> {
    spec: &'a NetSpec,
    cost: &'a Cost,
    source: &'a dyn Source,
    evaluation: &'a Evaluation,
    gate_use: &'a GateUse,
    names: Vec<String>,
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

fn share(value: f64) -> String {
    format!("{value:.4}")
}

impl Report<'_> {
    fn gates(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row(&["gate", "block", "site", "kind", "channels", "macs", "open_rate", "state"])];
        let macs = self.cost.spending().per_gate();
        let mut gate = 0;
        for (block, site) in self.spec.gate_sites() {
            let channels = match site.site {
                Site::Layer => vec![block.outputs],
                _ => site.sizes(),
            };
            for channels in channels {
                let rate = self.evaluation.summary.rates[gate];
                rows.push(vec![
                    self.names[gate].clone(),
                    block.name.clone(),
                    site.site.to_string(),
                    site.kind.name().to_owned(),
                    channels.to_string(),
                    macs[gate].to_string(),
                    share(rate),
                    GateState::of(rate).name().to_owned(),
                ]);
                gate += 1;
            }
        }
        rows
    }

    fn classes(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row(&["class", "images"])];
        rows[0].extend(self.names.iter().cloned());
        let counted = self.gate_use.class_images.iter().zip(&self.gate_use.class_rates);
        for (class, (images, rates)) in self.source.classes().iter().zip(counted) {
            let mut row = vec![class.clone(), images.to_string()];
            row.extend(rates.iter().map(|&rate| share(rate)));
            rows.push(row);
        }
        rows
    }

    fn images(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row(&["image", "class", "predicted", "macs", "macs_share", "open_gates"])];
        for image in &self.gate_use.images {
            rows.push(vec![
                self.path(image),
                self.class(image).to_owned(),
                self.predicted(image).to_owned(),
                format!("{:.0}", image.macs),
                share(image.macs / self.cost.dense as f64),
                image.open.to_string(),
            ]);
        }
        rows
    }

    fn summary(&self) -> Value {
        let rates = &self.evaluation.summary.rates;
        let mut blocks = Vec::new();
        let mut first = 0;
        for block in &self.spec.blocks {
            let count: usize = block.gates.iter().map(|site| site.count()).sum();
            let own = &rates[first..first + count];
            if count > 0 {
                let open_rate = own.iter().sum::<f64>() / count as f64;
                blocks.push(json!({ "block": block.name, "open_rate": open_rate, "gates": polarization(own) }));
            }
            first += count;
        }
        json!({
            "policy": self.evaluation.strategy.to_string(),
            "images": self.evaluation.summary.images,
            "open_rate": self.evaluation.summary.open_rate(),
            "gates": polarization(rates),
            "blocks": blocks,
            "macs_dense": self.cost.dense,
            "macs": self.macs(),
        })
    }

    /// MACs per image as a distribution.
    fn macs(&self) -> Value {
        let mut images: Vec<&ImageUse> = self.gate_use.images.iter().collect();
        // Stable: images of equal cost stay in the order of the split.
        images.sort_by(|a, b| a.macs.total_cmp(&b.macs));
        let (Some(cheapest), Some(dearest)) = (images.first(), images.last()) else { return Value::Null };
        let (low, high) = (cheapest.macs, dearest.macs);
        let count = images.len() as f64;
        let mean = images.iter().map(|image| image.macs).sum::<f64>() / count;
        let variance = images.iter().map(|image| (image.macs - mean).powi(2)).sum::<f64>() / count;
        // The smallest value that at least this share of the images does not exceed.
        let percentile = |percent: usize| images[(percent * images.len()).div_ceil(100).max(1) - 1].macs;
        let width = (high - low) / BARS as f64;
        let mut bars = vec![0u64; if width > 0.0 { BARS } else { 1 }];
        for image in &images {
            let bar = if width > 0.0 { ((image.macs - low) / width) as usize } else { 0 };
            let last = bars.len() - 1;
            bars[bar.min(last)] += 1;
        }
        let edges: Vec<f64> = (0..=bars.len()).map(|edge| low + edge as f64 * width).collect();
        let named = |image: &ImageUse| {
            json!({
                "image": self.path(image),
                "class": self.class(image),
                "predicted": self.predicted(image),
                "macs": image.macs,
                "open_gates": image.open,
            })
        };
        json!({
            "mean": mean,
            "deviation": variance.sqrt(),
            "minimum": low,
            "percentiles": { "5": percentile(5), "25": percentile(25), "50": percentile(50), "75": percentile(75), "95": percentile(95) },
            "maximum": high,
            "histogram": { "edges": edges, "images": bars },
            "cheapest": images.iter().take(NAMED).map(|image| named(image)).collect::<Vec<_>>(),
            "dearest": images.iter().rev().take(NAMED).map(|image| named(image)).collect::<Vec<_>>(),
        })
    }

    fn path(&self, image: &ImageUse) -> String {
        self.source.name(image.item).to_string_lossy().into_owned()
    }

    fn class(&self, image: &ImageUse) -> &str {
        &self.source.classes()[self.source.label(image.item)]
    }

    fn predicted(&self, image: &ImageUse) -> &str {
        self.source.classes().get(image.predicted).map_or("", String::as_str)
    }
}

fn polarization(rates: &[f64]) -> Value {
    let counts = Polarization::of(rates);
    json!({
        "count": rates.len(),
        "always_open": counts.always_open,
        "always_closed": counts.always_closed,
        "conditional": counts.conditional,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::summary::Summary;
    use arch::SiteKind;
    use gumbel_gates::GateKind;
    use std::io;
    use std::path::PathBuf;

    /// Images that are only names.
    #[derive(Debug)]
    struct Listed {
        classes: Vec<String>,
        images: [(&'static str, usize); 3],
    }

    impl Source for Listed {
        fn classes(&self) -> &[String] {
            &self.classes
        }
        fn len(&self) -> usize {
            self.images.len()
        }
        fn label(&self, image: usize) -> usize {
            self.images[image].1
        }
        fn location(&self) -> &Path {
            Path::new("/set")
        }
        fn name(&self, image: usize) -> PathBuf {
            self.images[image].0.into()
        }
        fn read(&self, _: usize, _: &mut Vec<u8>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn the_files_say_what_the_gates_did() {
        let preset = arch::Preset::named("cifar-resnet20").unwrap();
        let sizes: Vec<_> = (0..9).map(|block| (block == 0).then_some(arch::GroupSizes::uniform(8, 0))).collect();
        let spec = preset.spec(2).with_filter_gates(GateKind::Independent, &sizes, &[SiteKind::Between]);
        let cost = Cost::of(&spec, 32, 32).unwrap();
        let images = [("cat/a.png", 0), ("dog, large/b \"x\".png", 1), ("cat/c.png", 0)];
        let source = Listed { classes: vec!["cat".into(), "dog, large".into()], images };
        let image = |item, predicted, macs, open| ImageUse { item, predicted, macs, open };
        let gate_use = GateUse {
            class_images: vec![2, 1],
            class_rates: vec![vec![1.0, 0.5], vec![1.0, 0.0]],
            images: vec![image(0, 0, 30.0, 2), image(1, 0, 10.0, 1), image(2, 1, 10.0, 1)],
        };
        let summary = Summary { images: 3, rates: vec![1.0, 1.0 / 3.0], ..Summary::default() };
        let evaluation = Evaluation { summary, gate_use: Some(gate_use), ..Evaluation::default() };
        let folder = tempfile::tempdir().unwrap();
        write_gate_report(&folder.path().join("gates"), &spec, &cost, &source, &evaluation).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join("gates").join(name)).unwrap();

        // Half of the filters: half of what conv1 and conv2 cost, 2 · 32² · 9 · 16².
        let gates = read("gates.csv");
        let expected = "layer1.0.gate.between1.0,layer1.0,between1,independent,8,2359296,1.0000,always open\n";
        assert!(gates.contains(expected), "{gates}");
        assert!(gates.contains("between1.1,layer1.0,between1,independent,8,2359296,0.3333,conditional"), "{gates}");
        let heading = "class,images,layer1.0.gate.between1.0,layer1.0.gate.between1.1\n";
        assert_eq!(read("classes.csv"), format!("{heading}cat,2,1.0000,0.5000\n\"dog, large\",1,1.0000,0.0000\n"));
        let images = read("images.csv");
        assert!(images.contains("\"dog, large/b \"\"x\"\".png\",\"dog, large\",cat,10,0.0000,1\n"), "{images}");
        let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
        assert_eq!(summary["gates"]["always_open"], 1);
        assert_eq!(summary["blocks"][0]["gates"]["conditional"], 1);
        let macs = &summary["macs"];
        assert_eq!(
            [&macs["minimum"], &macs["percentiles"]["50"], &macs["percentiles"]["95"], &macs["maximum"]],
            [10.0, 10.0, 30.0, 30.0]
        );
        assert_eq!((&macs["histogram"]["images"][0], &macs["histogram"]["images"][19]), (&json!(2), &json!(1)));
        assert_eq!(
            (&macs["cheapest"][1]["image"], &macs["dearest"][0]["image"]),
            (&json!("cat/c.png"), &json!("cat/a.png"))
        );
    }
}

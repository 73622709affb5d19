//! A plan and its probes in one file, for devices that this program does not run on.

use super::plan::{Group, Plan};
use super::probe::Probe;
use crate::error::{Error, Result};
use arch::{Execution, OnnxInput, OnnxOptions};
use gumbel_gates::Policy;
use serde_json::{Map, Value, json};
use std::io::{Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

impl Plan {
    /// Writes a zip archive of `plan.json` and the probes as ONNX files, for
    /// `scripts/measure_times.py`. Their weights are all alike, so that the archive is small: what
    /// a network takes does not depend on them. `path` is what errors name.
    ///
    /// # Errors
    /// If a probe cannot be made, or the file not be written.
    pub fn write_probes(&self, out: impl Write + Seek, path: &Path, done: impl Fn(usize, usize)) -> Result<()> {
        let failed = |error: zip::result::ZipError| Error::File { path: path.to_owned(), source: error.into() };
        let mut archive = ZipWriter::new(out);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
            archive.start_file(name, options).map_err(failed)?;
            archive.write_all(bytes).map_err(|source| Error::File { path: path.to_owned(), source })
        };
        let groups = self.groups.iter().enumerate();
        let probes = groups.flat_map(|(group, own)| own.probes.iter().enumerate().map(move |probe| (group, probe)));
        let probes = probes.map(|(group, (number, probe))| (file_of(group, number), probe));
        let whole = [("dense.onnx".to_owned(), &self.dense), ("outside.onnx".to_owned(), &self.outside)];
        let files: Vec<(String, &Probe)> = whole.into_iter().chain(probes).collect();
        for (number, (name, probe)) in files.iter().enumerate() {
            put(name, &onnx(probe)?)?;
            done(number + 1, files.len());
        }
        put("plan.json", format!("{:#}\n", self.json()).as_bytes())?;
        archive.finish().map_err(failed)?;
        Ok(())
    }

    fn json(&self) -> Value {
        let groups = self.groups.iter().enumerate().map(|(number, group)| group.json(number));
        json!({
            "network": self.dense.spec.name,
            "image_size": self.dense.image_size,
            "align": self.align,
            "dense": file("dense.onnx".to_owned(), &self.dense),
            "outside": file("outside.onnx".to_owned(), &self.outside),
            "groups": groups.collect::<Vec<_>>(),
        })
    }
}

impl Group {
    fn json(&self, group: usize) -> Value {
        let probes = self.probes.iter().enumerate().map(|(number, probe)| file(file_of(group, number), probe));
        let grids = self.grids.iter().map(|grid| {
            let sites: Vec<String> = grid.sites.iter().map(ToString::to_string).collect();
            json!({ "sites": sites, "widths": grid.widths, "probes": grid.probes })
        });
        let channels = self.channels.iter().map(|(site, channels)| (site.to_string(), (*channels).into()));
        json!({
            "names": self.names,
            "channels": channels.collect::<Map<String, Value>>(),
            "copies": self.copies,
            "probes": probes.collect::<Vec<_>>(),
            "open": self.open,
            "closed": self.closed,
            "gate": self.gate,
            "grids": grids.collect::<Vec<_>>(),
        })
    }
}

fn file_of(group: usize, probe: usize) -> String {
    format!("{group}-{probe}.onnx")
}

fn file(name: String, probe: &Probe) -> Value {
    json!({ "file": name, "image_size": probe.image_size })
}

/// A probe as an ONNX file, with weights that keep features at their size.
fn onnx(probe: &Probe) -> Result<Vec<u8>> {
    let network = probe.network()?;
    for entry in network.tensors().iter() {
        if let [_, inputs, height, width] = entry.tensor.size()[..] {
            let even = 1.0 / (inputs * height * width) as f64;
            let _ = tch::no_grad(|| entry.tensor.shallow_clone().f_fill_(even))?;
        }
    }
    Ok(network.onnx_bytes(&OnnxOptions {
        policy: Policy::Argmax,
        execution: Execution::Skipping,
        keep_gates: false,
        input: OnnxInput::Normalized,
        image_size: probe.image_size as usize,
        metadata: Vec::new(),
    })?)
}

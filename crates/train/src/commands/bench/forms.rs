//! The forms in which a gated network runs, as files for each runtime.

use crate::source::Loaded;
use anyhow::Result;
use arch::{Cost, Decision, Execution, Meter, Network, Pass};
use deploy::{without_gates, write_for};
use gumbel_gates::{GateKind, GateValues, Policy};
use runtime::Runtime;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use trainer::independent_decisions;

/// A form of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Without gates.
    Dense,
    /// All of it is computed and multiplied by the gate values.
    Masked,
    /// What is closed for an image is not computed.
    Skipping,
    /// What is closed for all images is not there.
    Pruned,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Masked => "masked",
            Self::Skipping => "skipping",
            Self::Pruned => "pruned",
        }
    }
}

/// A network with what its forms need.
pub(super) struct Forms<'a> {
    loaded: &'a Loaded,
    dense: Network,
    /// Without the gates that ignore the image, which no file has.
    decided: Option<Network>,
    /// If all gates ignore the image.
    pruned: Option<Network>,
}

impl<'a> Forms<'a> {
    pub(super) fn of(loaded: &'a Loaded) -> Result<Self> {
        let network = &loaded.network;
        if let Some(cut) = loaded.cut() {
            // What a network takes does not depend on its weights.
            let dense = Network::build(&without_gates(cut.spec.clone()), Device::Cpu, 0)?;
            return Ok(Self { loaded, dense, decided: None, pruned: Some(network.prune(&[])?) });
        }
        let dense = network.prune(&vec![Decision::Open; network.spec().gate_count()])?;
        let decisions = independent_decisions(network, Policy::Argmax, loaded.input.image_size)?;
        let decided = !decisions.is_empty() && !decisions.contains(&Decision::Undecided);
        let pruned = if decided { Some(network.prune(&decisions)?) } else { None };
        let decided = if pruned.is_some() { None } else { network.decided(Policy::Argmax)? };
        Ok(Self { loaded, dense, decided, pruned })
    }

    /// The forms that a runtime has. What gates close that ignore the image is cut from every file.
    pub(super) fn in_runtime(&self, runtime: Runtime) -> Vec<Form> {
        let mut gates = self.loaded.network.spec().gate_sites().map(|(_, gates)| gates.kind).peekable();
        let gated = gates.peek().is_some();
        let looks = gates.any(|kind| kind == GateKind::Dependent);
        let mut forms = vec![Form::Dense];
        if looks || (gated && runtime == Runtime::Libtorch) {
            forms.extend([Form::Masked, Form::Skipping]);
        }
        if self.pruned.is_some() {
            forms.push(Form::Pruned);
        }
        forms
    }

    /// Without gates.
    pub(super) fn dense(&self) -> &Network {
        &self.dense
    }

    /// Without what gates close that all ignore the image.
    pub(super) fn pruned(&self) -> Option<&Network> {
        self.pruned.as_ref()
    }

    fn network(&self, runtime: Runtime, form: Form) -> &Network {
        let gated = if runtime == Runtime::Libtorch { None } else { self.decided.as_ref() };
        match (form, &self.pruned) {
            (Form::Dense, _) => &self.dense,
            (Form::Pruned, Some(pruned)) => pruned,
            _ => gated.unwrap_or(&self.loaded.network),
        }
    }

    /// What a form costs, gates open.
    pub(super) fn cost(&self, runtime: Runtime, form: Form) -> Result<Cost> {
        let size = self.loaded.input.image_size as usize;
        Ok(Cost::of(self.network(runtime, form).spec(), size, size)?)
    }

    /// MACs per image that a form computes, as a mean over batches. Files compute filters that
    /// gates close for some images, and multiply them.
    pub(super) fn macs(&self, runtime: Runtime, form: Form, batches: &[Tensor]) -> Result<f64> {
        let cost = self.cost(runtime, form)?;
        match form {
            Form::Dense | Form::Pruned => return Ok(cost.dense as f64),
            Form::Masked => return Ok((cost.dense + cost.gates) as f64),
            Form::Skipping => {}
        }
        let network = self.network(runtime, form);
        let meter = Meter::new(&cost.spending(), Device::Cpu)?;
        let mut sum = 0.0;
        for images in batches {
            let output = tch::no_grad(|| network.forward(images, Pass::inference(Policy::Argmax)))?;
            let sites = network.spec().gate_sites().zip(output.gate_values.sites());
            let used = sites.map(|((_, gates), values)| match gates.site {
                arch::Site::Layer => values.shallow_clone(),
                _ if runtime == Runtime::Libtorch => values.shallow_clone(),
                _ => values.ones_like(),
            });
            sum += meter.used(&GateValues::new(used.collect())?)?.mean(Kind::Double).double_value(&[]);
        }
        Ok(sum / batches.len() as f64)
    }

    /// Writes a form as the file that a runtime reads.
    pub(super) fn write(&self, folder: &Path, runtime: Runtime, form: Form) -> Result<PathBuf> {
        let network = self.network(runtime, form);
        let execution = if form == Form::Masked { Execution::Masked } else { Execution::Skipping };
        let Loaded { classes, input, .. } = self.loaded;
        Ok(write_for(runtime, network, execution, classes, *input, &folder.join(form.name()))?)
    }
}

//! The gates of a block, and what they decided in one pass.

use super::pass::Context;
use crate::error::Result;
use crate::spec::{BlockSpec, GateSite, OpenChannels, Site};
use gumbel_gates::{GateInput, Gates};
use tch::{Device, Kind, Tensor};
use torch_ext::Path;

/// The gates of one site, and which channels they decide about.
#[derive(Debug)]
pub(crate) struct SiteGates {
    site: Site,
    gates: Gates,
    /// For every channel its column among the gates and a last column of ones; absent for a layer
    /// gate.
    columns: Option<Tensor>,
}

/// What the gates of a block decided in one pass.
pub(crate) struct Decided<'a> {
    gates: &'a [SiteGates],
    /// One per site: [N, n].
    gate_values: Vec<Tensor>,
}

/// What the gates of a site decided, one for each.
type SiteDecisions = (Site, Vec<bool>);

impl SiteGates {
    /// Makes the tensors of `spec` under its block's `path`; `inputs` channels arrive at the block.
    pub fn build(path: &mut Path, spec: &GateSite, inputs: usize, device: Device) -> Result<Self> {
        let gates = Gates::build(&mut path.sub(&spec.site.name()), spec.kind, spec.count(), inputs, spec.initial)?;
        let columns = match spec.site {
            Site::Layer => None,
            _ => {
                let always_open = spec.count();
                let columns: Vec<i64> =
                    spec.gate_of_channel().into_iter().map(|gate| gate.unwrap_or(always_open) as i64).collect();
                Some(Tensor::f_from_slice(&columns)?.f_to_device(device)?)
            }
        };
        Ok(Self { site: spec.site, gates, columns })
    }

    /// The gates themselves.
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Gate values [N, n] to what the site's features are multiplied by, [N, channels] or [N, 1].
    fn mask(&self, gate_values: &Tensor) -> Result<Tensor> {
        Ok(match &self.columns {
            None => gate_values.shallow_clone(),
            Some(columns) => {
                let ones =
                    gate_values.f_new_ones([gate_values.size2()?.0, 1], (gate_values.kind(), gate_values.device()))?;
                Tensor::f_cat(&[gate_values, &ones], 1)?.f_index_select(1, columns)?
            }
        })
    }
}

impl<'a> Decided<'a> {
    /// Lets the gates of a block decide about its input.
    pub fn by(gates: &'a [SiteGates], input: &GateInput, context: &mut Context) -> Result<Self> {
        let mut gate_values = Vec::with_capacity(gates.len());
        for site in gates {
            let logits = site.gates.logits(input, context.gate_statistics())?;
            gate_values.push(context.decide(logits)?);
        }
        Ok(Self { gates, gate_values })
    }

    /// What the features of a site are multiplied by, [N, channels] or [N, 1]; `None` without
    /// gates.
    pub fn mask(&self, site: Site) -> Result<Option<Tensor>> {
        self.at(site).map(|(gates, gate_values)| gates.mask(gate_values)).transpose()
    }

    /// The gate values [N, n] of a site; `None` without gates.
    pub fn gate_values(&self, site: Site) -> Option<&Tensor> {
        self.at(site).map(|(_, gate_values)| gate_values)
    }

    fn at(&self, site: Site) -> Option<(&SiteGates, &Tensor)> {
        self.gates.iter().zip(&self.gate_values).find(|(gates, _)| gates.site == site)
    }

    /// The same for some images only.
    pub fn of_rows(&self, rows: &Tensor) -> Result<Self> {
        let gate_values = self.gate_values.iter().map(|gate_values| gate_values.f_index_select(0, rows));
        Ok(Self { gates: self.gates, gate_values: gate_values.collect::<std::result::Result<_, _>>()? })
    }

    /// What is open of `block`, if all filter gates decide alike for every image. Waits for the
    /// device.
    pub fn open_channels(&self, block: &BlockSpec) -> Result<Option<OpenChannels>> {
        let filters = self.gates.iter().any(|gates| gates.site != Site::Layer);
        let alike = if filters { self.alike()? } else { None };
        Ok(alike.map(|alike| {
            let open = |site: Site| alike.iter().find(|(found, _)| *found == site).map(|(_, open)| open.as_slice());
            block.open_channels(open)
        }))
    }

    /// The decisions at filter sites, if they are the same for every image.
    fn alike(&self) -> Result<Option<Vec<SiteDecisions>>> {
        let mut decisions = Vec::new();
        let sites = self.gates.iter().zip(&self.gate_values);
        for (gates, gate_values) in sites.filter(|(gates, _)| gates.site != Site::Layer) {
            let first = gate_values.f_narrow(0, 0, 1)?;
            if gate_values.f_ne_tensor(&first)?.f_any()?.f_int64_value(&[])? != 0 {
                return Ok(None);
            }
            let first: Vec<f32> = Vec::try_from(first.f_view([-1])?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?)?;
            decisions.push((gates.site, first.into_iter().map(|open| open > 0.0).collect()));
        }
        Ok(Some(decisions))
    }
}

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
    openings: Vec<Tensor>,
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

    /// Openings [N, n] to what the site's features are multiplied by, [N, channels] or [N, 1].
    fn mask(&self, openings: &Tensor) -> Result<Tensor> {
        Ok(match &self.columns {
            None => openings.shallow_clone(),
            Some(columns) => {
                let ones = openings.f_new_ones([openings.size2()?.0, 1], (openings.kind(), openings.device()))?;
                Tensor::f_cat(&[openings, &ones], 1)?.f_index_select(1, columns)?
            }
        })
    }
}

impl<'a> Decided<'a> {
    /// Lets the gates of a block decide about its input.
    pub fn by(gates: &'a [SiteGates], input: &GateInput, context: &mut Context) -> Result<Self> {
        let mut openings = Vec::with_capacity(gates.len());
        for site in gates {
            let logits = site.gates.logits(input, context.gate_statistics())?;
            openings.push(context.decide(logits)?);
        }
        Ok(Self { gates, openings })
    }

    /// What the features of a site are multiplied by, [N, channels] or [N, 1]; `None` without
    /// gates.
    pub fn mask(&self, site: Site) -> Result<Option<Tensor>> {
        self.at(site).map(|(gates, openings)| gates.mask(openings)).transpose()
    }

    /// The openings [N, n] of a site; `None` without gates.
    pub fn openings(&self, site: Site) -> Option<&Tensor> {
        self.at(site).map(|(_, openings)| openings)
    }

    fn at(&self, site: Site) -> Option<(&SiteGates, &Tensor)> {
        self.gates.iter().zip(&self.openings).find(|(gates, _)| gates.site == site)
    }

    /// The same for some images only.
    pub fn of_rows(&self, rows: &Tensor) -> Result<Self> {
        let openings = self.openings.iter().map(|openings| openings.f_index_select(0, rows));
        Ok(Self { gates: self.gates, openings: openings.collect::<std::result::Result<_, _>>()? })
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
        let sites = self.gates.iter().zip(&self.openings);
        for (gates, openings) in sites.filter(|(gates, _)| gates.site != Site::Layer) {
            let first = openings.f_narrow(0, 0, 1)?;
            if openings.f_ne_tensor(&first)?.f_any()?.f_int64_value(&[])? != 0 {
                return Ok(None);
            }
            let first: Vec<f32> = Vec::try_from(first.f_view([-1])?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?)?;
            decisions.push((gates.site, first.into_iter().map(|open| open > 0.0).collect()));
        }
        Ok(Some(decisions))
    }
}

use crate::conv::Conv;
use crate::error::Result;
use crate::gating::{GateSite, Site};
use crate::network::Decide;
use crate::spec::{Activation, BlockSpec, Shortcut};
use gumbel_gates::{GateInput, Gates};
use tch::{Device, Tensor};
use torch_ext::{Path, Statistics};

/// A residual block with its gates: activation(shortcut(x) + branch(x)), each place multiplied by its openings.
#[derive(Debug)]
pub(crate) struct Block {
    branch: Vec<Conv>,
    shortcut: Around,
    activation: Activation,
    gates: Vec<GatedPlace>,
}

#[derive(Debug)]
enum Around {
    Nothing,
    Identity,
    Projection(Conv),
    /// Step in pixels, and channels of zeros to add on each side.
    ZeroPadded {
        stride: i64,
        channels: i64,
    },
}

/// The gates of one place, and which channels they decide about.
#[derive(Debug)]
struct GatedPlace {
    site: Site,
    gates: Gates,
    /// For every channel its column among the gates and a last column of ones; absent for a layer gate.
    columns: Option<Tensor>,
}

impl GatedPlace {
    fn build(path: &mut Path, spec: &GateSite, inputs: usize, device: Device) -> Result<Self> {
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

    /// Openings [N, n] to what the place is multiplied by, [N, channels, 1, 1] or [N, 1, 1, 1].
    fn mask(&self, openings: &Tensor) -> Result<Tensor> {
        let batch = openings.size2()?.0;
        let mask = match &self.columns {
            None => openings.shallow_clone(),
            Some(columns) => {
                let ones = openings.f_new_ones([batch, 1], (openings.kind(), openings.device()))?;
                Tensor::f_cat(&[openings, &ones], 1)?.f_index_select(1, columns)?
            }
        };
        Ok(mask.f_view([batch, -1, 1, 1])?)
    }
}

impl Block {
    pub fn build(path: &mut Path, spec: &BlockSpec, device: Device) -> Result<Self> {
        let mut path = path.sub(&spec.name);
        let branch = spec.branch.iter().map(|conv| Conv::build(&mut path, conv)).collect::<Result<_>>()?;
        let shortcut = match &spec.shortcut {
            Shortcut::None => Around::Nothing,
            Shortcut::Identity => Around::Identity,
            Shortcut::Projection(conv) => Around::Projection(Conv::build(&mut path, conv)?),
            Shortcut::ZeroPadded { stride, outputs } => {
                Around::ZeroPadded { stride: *stride as i64, channels: (outputs - spec.inputs()) as i64 / 2 }
            }
        };
        let mut gates = Vec::with_capacity(spec.gates.len());
        for place in &spec.gates {
            gates.push(GatedPlace::build(&mut path, place, spec.inputs(), device)?);
        }
        Ok(Self { branch, shortcut, activation: spec.activation, gates })
    }

    /// [N, C, H, W] to [N, C', H', W']; gates decide by `decide`, which keeps what they decided.
    pub fn forward(&self, input: &Tensor, statistics: Statistics, decide: &mut Decide) -> Result<Tensor> {
        let gate_input = GateInput::new(input);
        let mut masks = Vec::with_capacity(self.gates.len());
        for place in &self.gates {
            let openings = decide.site(place.gates.logits(&gate_input, statistics)?)?;
            masks.push((place.site, place.mask(&openings)?));
        }
        let gated = |site: Site, features: Tensor| -> Result<Tensor> {
            match masks.iter().find(|(gated, _)| *gated == site) {
                Some((_, mask)) => Ok(features.f_mul(mask)?),
                None => Ok(features),
            }
        };

        let mut output = gated(Site::Input, input.shallow_clone())?;
        for (position, conv) in (1..).zip(&self.branch) {
            let site = if position < self.branch.len() { Site::Between(position) } else { Site::Output };
            output = gated(site, conv.forward(&output, statistics)?)?;
        }
        output = gated(Site::Layer, output)?;
        let sum = match &self.shortcut {
            Around::Nothing => output,
            Around::Identity => output.f_add(input)?,
            Around::Projection(conv) => output.f_add(&gated(Site::Projection, conv.forward(input, statistics)?)?)?,
            Around::ZeroPadded { stride, channels } => {
                let picked = input.f_slice(2, None, None, *stride)?.f_slice(3, None, None, *stride)?;
                output.f_add(&picked.f_constant_pad_nd([0, 0, 0, 0, *channels, *channels])?)?
            }
        };
        self.activation.apply(sum)
    }
}

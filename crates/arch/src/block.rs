use crate::conv::Conv;
use crate::error::Result;
use crate::network::Pass;
use crate::spec::{Activation, BlockSpec, Shortcut, Site};
use gumbel_gates::Gates;
use tch::Tensor;
use torch_ext::Path;

/// A residual block with its gates: activation(shortcut(x) + opening · branch(x)).
#[derive(Debug)]
pub(crate) struct Block {
    branch: Vec<Conv>,
    shortcut: Around,
    activation: Activation,
    gates: Vec<(Site, Gates)>,
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

/// What the gates of one pass decided, in the order of the sites.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// Per site [N, n, 2].
    pub logits: Vec<Tensor>,
    /// Per site [N, n].
    pub openings: Vec<Tensor>,
}

impl Block {
    pub fn build(path: &mut Path, spec: &BlockSpec) -> Result<Self> {
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
        let mut gates = Vec::new();
        for gate in &spec.gates {
            let mut path = path.sub(gate.site.name());
            let built = Gates::build(&mut path, gate.kind, gate.site.count(), spec.inputs(), gate.initial)?;
            gates.push((gate.site, built));
        }
        Ok(Self { branch, shortcut, activation: spec.activation, gates })
    }

    /// [N, C, H, W] to [N, C', H', W'], appending to `decisions`.
    pub fn forward(&self, input: &Tensor, pass: Pass, decisions: &mut Decisions) -> Result<Tensor> {
        let mut output = input.shallow_clone();
        for conv in &self.branch {
            output = conv.forward(&output, pass.training)?;
        }
        for (site, gates) in &self.gates {
            let logits = gates.logits(input, pass.training)?;
            let opening = pass.policy.decide(&logits, decisions.logits.len())?;
            match site {
                Site::Layer => output = output.f_mul(&opening.f_view([-1, 1, 1, 1])?)?,
            }
            decisions.logits.push(logits);
            decisions.openings.push(opening);
        }
        let sum = match &self.shortcut {
            Around::Nothing => output,
            Around::Identity => output.f_add(input)?,
            Around::Projection(conv) => output.f_add(&conv.forward(input, pass.training)?)?,
            Around::ZeroPadded { stride, channels } => {
                let picked = input.f_slice(2, None, None, *stride)?.f_slice(3, None, None, *stride)?;
                output.f_add(&picked.f_constant_pad_nd([0, 0, 0, 0, *channels, *channels])?)?
            }
        };
        self.activation.apply(sum)
    }
}

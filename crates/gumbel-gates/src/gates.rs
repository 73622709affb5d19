//! The gates of one site: where their logits come from, and what computing them costs.

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use tch::{Kind, Tensor};
use torch_ext::{Autocast, BatchNorm, Init, Linear, Path, Statistics};

/// The group that all tensors of gates are labeled with (see [`torch_ext::Path::group`]).
pub const GATE_GROUP: &str = "gate";

/// Width of the hidden layer of a dependent gate.
const HIDDEN: i64 = 16;

/// Where the logits of a gate come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GateKind {
    /// Parameters of their own: the same for every input, so that what they close can be cut away.
    Independent,
    /// Computed from the block's input: conditional execution.
    Dependent,
}

impl GateKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Dependent => "dependent",
        }
    }
}

/// What the gates of a block look at: the block's input [N, C, H, W], pooled once for all of its
/// sites.
#[derive(Debug)]
pub struct GateInput<'a> {
    input: &'a Tensor,
    pooled: OnceCell<Tensor>,
}

impl<'a> GateInput<'a> {
    /// Nothing is computed before a dependent gate asks for it.
    pub fn new(input: &'a Tensor) -> Self {
        Self { input, pooled: OnceCell::new() }
    }

    /// The same where the global average of every channel is known, `pooled` [N, C] in float32.
    pub fn pooled_to(input: &'a Tensor, pooled: Tensor) -> Self {
        Self { input, pooled: OnceCell::from(pooled) }
    }

    /// The global average of every channel, [N, C] in float32.
    fn pooled(&self) -> Result<&Tensor> {
        if let Some(pooled) = self.pooled.get() {
            return Ok(pooled);
        }
        let pooled = self.input.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
        Ok(self.pooled.get_or_init(|| pooled))
    }
}

/// The gates of one site.
#[derive(Debug)]
pub struct Gates {
    count: i64,
    logits: Logits,
}

#[derive(Debug)]
enum Logits {
    /// [n, 2]
    Independent(Tensor),
    Dependent {
        squeeze: Linear,
        norm: BatchNorm,
        expand: Linear,
    },
}

impl Gates {
    /// Makes `count` gates under `path` for an input of `channels` channels, biased towards open:
    /// the logits start at `initial` (closed, open), for dependent gates up to weights drawn from
    /// N(0, 0.001²).
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn build(path: &mut Path, kind: GateKind, count: usize, channels: usize, initial: (f64, f64)) -> Result<Self> {
        let mut path = path.group(GATE_GROUP);
        let (count, channels) = (count as i64, channels as i64);
        let initial = [initial.0, initial.1];
        let logits = match kind {
            GateKind::Independent => {
                Logits::Independent(path.parameter("logits", &[count, 2], Init::Repeat(&initial))?)
            }
            GateKind::Dependent => Logits::Dependent {
                squeeze: Linear::build(
                    &mut path.sub("fc1"),
                    channels,
                    HIDDEN,
                    // He et al. 2015 for a layer that a rectifier follows.
                    Init::Normal { std: (2.0 / channels as f64).sqrt() },
                    None, // the batch norm that follows would take a bias away again
                )?,
                norm: BatchNorm::build(&mut path.sub("bn"), HIDDEN)?,
                expand: Linear::build(
                    &mut path.sub("fc2"),
                    HIDDEN,
                    2 * count,
                    Init::Normal { std: 0.001 },
                    Some(Init::Repeat(&initial)),
                )?,
            },
        };
        Ok(Self { count, logits })
    }

    /// The logits (closed, open) for an input of N images: [N, n, 2] in float32, under autocast
    /// too: 16 bits cannot hold the noise that is added to them. A dependent gate's batch norm uses
    /// `statistics`.
    ///
    /// # Errors
    /// If the input has another shape.
    pub fn logits(&self, input: &GateInput, statistics: Statistics) -> Result<Tensor> {
        let batch = input.input.size4()?.0;
        match &self.logits {
            Logits::Independent(logits) => Ok(logits.f_unsqueeze(0)?.f_expand([batch, self.count, 2], false)?),
            Logits::Dependent { squeeze, norm, expand } => {
                let _float32 = Autocast::off(input.input.device())?;
                let hidden = norm.forward(&squeeze.forward(input.pooled()?)?, statistics)?.f_relu()?;
                Ok(expand.forward(&hidden)?.f_view([batch, self.count, 2])?)
            }
        }
    }

    /// Moves the margin between open and closed of every gate, for all inputs: `by` `[n]` is added
    /// to the logits of "open". It is not a step of training and leaves no gradient.
    ///
    /// # Errors
    /// If there is not one number per gate.
    pub fn shift(&self, by: &Tensor) -> Result<()> {
        let open = match &self.logits {
            Logits::Independent(logits) => logits.f_detach()?.f_select(1, 1)?,
            // The bias of the last layer holds (closed, open) of each gate in turn.
            Logits::Dependent { expand, .. } => match expand.bias() {
                Some(bias) => bias.f_detach()?.f_view([self.count, 2])?.f_select(1, 1)?,
                None => return Ok(()),
            },
        };
        if by.size() != open.size() {
            return Err(Error::ValueCount { values: by.numel(), gates: open.numel() });
        }
        let _ = open.shallow_clone().f_add_(by)?;
        Ok(())
    }

    /// Multiply-accumulates the gates themselves cost per image.
    pub fn macs(kind: GateKind, count: usize, channels: usize) -> u64 {
        match kind {
            GateKind::Independent => 0,
            GateKind::Dependent => HIDDEN as u64 * (channels as u64 + 2 * count as u64),
        }
    }

    /// Learned numbers the gates themselves hold.
    pub fn parameters(kind: GateKind, count: usize, channels: usize) -> u64 {
        let n = 2 * count as u64;
        let hidden = HIDDEN as u64;
        match kind {
            GateKind::Independent => n,
            GateKind::Dependent => hidden * channels as u64 + 2 * hidden + hidden * n + n,
        }
    }
}

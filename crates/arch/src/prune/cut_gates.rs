//! Gates that left a network, and what they were decided to be.

use crate::error::{Error, Result};
use crate::spec::NetSpec;
use gumbel_gates::GateValues;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// Gates that were cut out of a network with what they closed.
///
/// With them what a smaller network does can be told in the words of the one it was cut from: which
/// of its gates are open, and what share of its compute is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutGates {
    /// The network that they were cut from.
    pub spec: NetSpec,
    /// Whether each was open, in the order of the spec's gate sites.
    pub open: Vec<bool>,
}

impl CutGates {
    /// What they decided, on `device`: per site [1, n].
    ///
    /// # Errors
    /// If there is not one decision per gate, or the device refuses the tensors.
    pub fn values(&self, device: Device) -> Result<GateValues> {
        let (decisions, gates) = (self.open.len(), self.spec.gate_count());
        if decisions != gates {
            return Err(Error::DecisionCount { decisions, gates });
        }
        let mut left = self.open.as_slice();
        let mut sites = Vec::new();
        for (_, site) in self.spec.gate_sites() {
            let (own, rest) = left.split_at(site.count());
            let own: Vec<f32> = own.iter().map(|&open| f32::from(u8::from(open))).collect();
            sites.push(Tensor::f_from_slice(&own)?.f_view([1, -1])?.f_to_device(device)?);
            left = rest;
        }
        Ok(GateValues::new(sites)?)
    }
}

//! Networks whose gates were cut out of them, told in the words of the networks that had them.

use crate::error::Result;
use arch::{CutGates, Output};
use gumbel_gates::GateValues;
use tch::Device;

/// What gates decided that were cut out of a network, for one image: empty, if none were.
pub(crate) fn decided(cut: Option<&CutGates>, device: Device) -> Result<GateValues> {
    Ok(cut.map(|cut| cut.values(device)).transpose()?.unwrap_or_default())
}

/// What a pass gave, with what the gates decided that were cut out of its network.
pub(crate) fn with_cut_gates(output: Output, cut: &GateValues) -> Result<Output> {
    if cut.is_empty() {
        return Ok(output);
    }
    let gate_values = cut.of_batch(output.logits.size2()?.0)?;
    Ok(Output { gate_values, ..output })
}

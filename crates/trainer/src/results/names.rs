//! What gates and the sites they sit at are called.

use arch::{NetSpec, Site};

/// A gate site and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteName {
    /// Its state dict path, such as `layer1.0.gate`.
    pub name: String,
    /// How many gates it has.
    pub gates: usize,
}

impl SiteName {
    /// The gate sites of a network, in the order of [`crate::Summary::rates`].
    pub fn all(spec: &NetSpec) -> Vec<Self> {
        let sites = spec.gate_sites();
        let name = |(block, site): (&arch::BlockSpec, &arch::GateSite)| Self {
            name: format!("{}.{}", block.name, site.site.name()),
            gates: site.count(),
        };
        sites.map(name).collect()
    }
}

/// A name for each gate, in the order of [`crate::Summary::rates`]: `layer1.0.gate` for a layer
/// gate, else with its number at the site, `layer1.0.gate.input.3`.
pub fn gate_names(spec: &NetSpec) -> Vec<String> {
    let mut names = Vec::with_capacity(spec.gate_count());
    for (block, gates) in spec.gate_sites() {
        let site = format!("{}.{}", block.name, gates.site.name());
        match gates.site {
            Site::Layer => names.push(site),
            _ => names.extend((0..gates.count()).map(|number| format!("{site}.{number}"))),
        }
    }
    names
}

//! What the gates of a network decided in one forward pass.

use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// The decisions of one forward pass: per gate site a tensor [N, n] of 0 (closed) and 1 (open),
/// differentiable while training.
#[derive(Debug, Default)]
pub struct GateValues {
    sites: Vec<Tensor>,
}

impl GateValues {
    /// Gate values of the given sites, each [N, n] with the same N.
    ///
    /// # Errors
    /// If a tensor has another number of dimensions or another N.
    pub fn new(sites: Vec<Tensor>) -> Result<Self> {
        let batch = sites.first().map(|site| site.size().first().copied());
        for site in &sites {
            let size = site.size();
            if size.len() != 2 || Some(size.first().copied()) != batch {
                return Err(Error::Shape {
                    what: "gate values",
                    expected: "[N, n], N alike at all sites",
                    found: size,
                });
            }
        }
        Ok(Self { sites })
    }

    /// Per site, a tensor [N, n].
    pub fn sites(&self) -> &[Tensor] {
        &self.sites
    }

    /// Whether there is no gate at all.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// The gate values of one image, [1, n] at each site, for a batch of `images`: [N, n].
    ///
    /// # Errors
    /// If they are those of several images.
    pub fn of_batch(&self, images: i64) -> Result<Self> {
        let sites = self.sites.iter().map(|site| site.f_expand([images, -1], false)).collect::<tch::Result<_>>()?;
        Ok(Self { sites })
    }

    /// All gates side by side, sites in order: [N, number of gates].
    ///
    /// # Errors
    /// If there are no gates.
    pub fn joined(&self) -> Result<Tensor> {
        if self.is_empty() {
            return Err(Error::NoGates);
        }
        Ok(Tensor::f_cat(&self.sites, 1)?)
    }

    /// The share of the batch for which each gate is open: [number of gates], sites in order.
    ///
    /// # Errors
    /// If there are no gates.
    pub fn rates(&self) -> Result<Tensor> {
        Ok(self.joined()?.f_mean_dim(0, false, Kind::Float)?)
    }

    /// The mean activation over all gates and the batch, the papers' a: a scalar tensor.
    ///
    /// # Errors
    /// If there are no gates.
    pub fn mean(&self) -> Result<Tensor> {
        Ok(self.rates()?.f_mean(Kind::Float)?)
    }
}

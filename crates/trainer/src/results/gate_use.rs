//! What gates did on the images of an evaluation.

/// What the gates did on the images of an evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GateUse {
    /// Images of each class.
    pub class_images: Vec<u64>,
    /// For each class and gate the share of the class's images for which the gate was open; 0 for a
    /// class without images.
    pub class_rates: Vec<Vec<f64>>,
    /// One entry per image, in the order they were seen.
    pub images: Vec<ImageUse>,
}

/// What one image took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageUse {
    /// Position in the split's items.
    pub item: usize,
    /// The most probable class.
    pub predicted: usize,
    /// MACs used, gates included.
    pub macs: f64,
    /// Gates that were open.
    pub open: usize,
}

/// What a gate does for the images of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// Open for every image.
    AlwaysOpen,
    /// Closed for every image.
    AlwaysClosed,
    /// Open for some.
    Conditional,
}

/// How many gates are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Polarization {
    /// Open for every image.
    pub always_open: usize,
    /// Closed for every image.
    pub always_closed: usize,
    /// Open for some.
    pub conditional: usize,
}

impl GateState {
    /// The state of a gate that is open for this share of the images.
    pub fn of(rate: f64) -> Self {
        match rate {
            1.0 => Self::AlwaysOpen,
            0.0 => Self::AlwaysClosed,
            _ => Self::Conditional,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AlwaysOpen => "always open",
            Self::AlwaysClosed => "always closed",
            Self::Conditional => "conditional",
        }
    }
}

impl Polarization {
    /// Of gates that are open for these shares of the images.
    pub fn of(rates: &[f64]) -> Self {
        let mut counts = Self::default();
        for &rate in rates {
            match GateState::of(rate) {
                GateState::AlwaysOpen => counts.always_open += 1,
                GateState::AlwaysClosed => counts.always_closed += 1,
                GateState::Conditional => counts.conditional += 1,
            }
        }
        counts
    }
}

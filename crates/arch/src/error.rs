//! What can go wrong in this crate.

use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A tensor could not be made or a layer could not run.
    #[error(transparent)]
    Tensors(#[from] torch_ext::Error),
    /// A gate refused an operation.
    #[error(transparent)]
    Gates(#[from] gumbel_gates::Error),
    /// No preset has this name.
    #[error("unknown architecture '{name}'; known are {}; mobilenet_v2 takes a width multiplier from 0.1 to 4, as in mobilenet_v2_x0.5{}", known.join(", "), did_you_mean(*meant))]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
        /// The one that was probably meant.
        meant: Option<&'static str>,
    },
    /// A spec contradicts itself.
    #[error("the network description is not consistent: {}", faults.join("; "))]
    Spec {
        /// Every contradiction found.
        faults: Vec<String>,
    },
    /// There is not one decision per gate.
    #[error("{decisions} decisions for {gates} gates; give one per gate")]
    DecisionCount {
        /// Number of decisions.
        decisions: usize,
        /// Number of gates.
        gates: usize,
    },
    /// A budget that the narrowest network is over.
    #[error(
        "a budget of {budget:.6} cannot be met: the narrowest widths asked for take {least:.6}; raise it, or ask for a smaller multiple"
    )]
    Budget {
        /// In MACs, or the unit of a table of costs.
        budget: f64,
        /// What the narrowest network takes.
        least: f64,
    },
    /// A table of costs is damaged, or belongs to another network.
    #[error("{} is not a table of costs that fits: {reason}", origin.display())]
    CostTable {
        /// The file.
        origin: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Pruning would leave no branch at all.
    #[error(
        "every gate of {network} is closed, so pruning would leave nothing of it; train it longer, with a higher target or a lower loss factor, or decide by another policy"
    )]
    AllClosed {
        /// The network.
        network: String,
    },
    /// A script cannot decide as the policy does.
    #[error("gates of an exported network decide by argmax, threshold=P or always-open, not by {policy}")]
    NotScriptable {
        /// The policy asked for.
        policy: String,
    },
    /// A file would be larger than its format allows.
    #[error("the {format} file would have {bytes} bytes; the format holds {most}")]
    TooLarge {
        /// How large it would be.
        bytes: usize,
        /// The most.
        most: usize,
        /// The format.
        format: &'static str,
    },
    /// Pruning would cut every path through a block.
    #[error(
        "every filter of block '{block}' is closed and there is no path around it, so nothing would reach the classifier"
    )]
    NothingLeft {
        /// The block.
        block: String,
    },
    /// Repair is for networks whose gates are all cut.
    #[error("{gates} gates are left; a network is repaired once all gates are cut out of it")]
    GatesLeft {
        /// How many.
        gates: usize,
    },
    /// Repair learns from images.
    #[error("there are no images to repair a network over; expected at least one batch")]
    NoImages,
    /// The images are too small for the network's strides.
    #[error("images of {height}×{width} are too small for {name}: '{layer}' would have no output")]
    ImageTooSmall {
        /// The network.
        name: String,
        /// The convolution or pooling without output.
        layer: String,
        /// Image height in pixels.
        height: usize,
        /// Image width in pixels.
        width: usize,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not the weights file it should be.
    #[error("{} is not a readable weights file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A weights file belongs to another network.
    #[error("{} does not fit {network}:{}{}", origin.display(), faults.iter().map(|f| format!("\n  {f}")).collect::<String>(), fits(fitting))]
    Mismatch {
        /// The file.
        origin: PathBuf,
        /// The network's name.
        network: String,
        /// Missing, unknown and wrongly shaped tensors.
        faults: Vec<String>,
        /// The preset whose weights they are.
        fitting: Option<String>,
    },
}

fn fits(preset: &Option<String>) -> String {
    preset.as_ref().map(|preset| format!("\n  these are weights of {preset}")).unwrap_or_default()
}

/// The name that was probably meant.
fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

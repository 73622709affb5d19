//! Values that have the right type and make no sense.

use super::{ActivationLoss, Config, GateDecay, GateStart, Granularity, PerPlace, SharedDecay, Weighting};
use crate::config::schedule::{ActivationTarget, LearningRate};
use arch::Cost;
use gumbel_gates::{GateKind, Policy};

/// What is wrong with deciding gates that have neither learned nor started by importance.
pub(crate) const ALL_ALIKE: &str =
    "new gates are all alike, so none can be told from another yet; decide later, or set gates.start";

/// What is wrong with re-estimating statistics where gates that look at the input are decided.
pub(crate) const MOVES_MARGINS: &str =
    "statistics estimated anew would move the margins of dependent gates past gates.decide_after; expected 0";

impl Config {
    /// Reports every value out of range as (key, message).
    pub(super) fn validate(&self, fault: &mut impl FnMut(String, String)) {
        let mut check = |key: &str, holds: bool, message: &str| {
            if !holds {
                fault(key.to_owned(), message.to_owned());
            }
        };
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();

        let gates = &self.gates;
        check(
            "gates.loss_factor",
            gates.loss_factor.is_always(not_negative),
            "expected numbers and times of at least 0",
        );
        check(
            "gates.temperature",
            gates.temperature.is_always(positive),
            "expected numbers above 0, and times of at least 0",
        );
        check(
            "gates.learning_rate_factor",
            not_negative(gates.learning_rate_factor),
            "expected a number of at least 0",
        );
        let (GateDecay::Constant(decay) | GateDecay::Shared(SharedDecay { over_gates: decay })) = gates.weight_decay;
        check("gates.weight_decay", not_negative(decay), "expected a number of at least 0");
        check(
            "gates.polarisation",
            gates.polarisation.is_always(not_negative),
            "expected numbers and times of at least 0",
        );
        check("gates.start_spread", not_negative(gates.start_spread), "expected a number of at least 0");
        check("gates.start_batches", (1..=1_000_000).contains(&gates.start_batches), "expected 1 to 1,000,000 batches");
        check(
            "gates.decide_after",
            gates.decide_after.is_none_or(|epoch| (0.0..=self.train.epochs as f64).contains(&epoch)),
            &format!("expected an epoch from 0 to train.epochs ({})", self.train.epochs),
        );
        if gates.decide_after.is_some() {
            let one = !matches!(gates.target, ActivationTarget::PerBlock(_));
            check(
                "gates.target",
                one,
                "gates.decide_after decides all gates by one threshold; expected one target for all blocks",
            );
            let arrived = gates.target.arrives() <= gates.decide_after.unwrap_or_default();
            check(
                "gates.target",
                arrived,
                "expected a ramp that ends before gates.decide_after, which freezes the gates",
            );
            // Of a checkpoint it is known once that is read.
            let dependent = self.network.checkpoint.is_none() && gates.kind == GateKind::Dependent;
            check("train.calibrate_batches", !dependent || self.train.calibrate_batches == 0, MOVES_MARGINS);
        }
        let of_network = gates.weighting == Weighting::Network;
        check(
            "gates.loss",
            !of_network || gates.loss == ActivationLoss::Batch,
            "gates.weighting = \"network\" is a target for all gates together; expected \"batch\"",
        );
        check(
            "gates.target",
            !of_network || !matches!(gates.target, ActivationTarget::PerBlock(_)),
            "gates.weighting = \"network\" is a target for all gates together; expected one target for all blocks",
        );
        let learned = self.network.checkpoint.is_some() || self.network.weights.is_some();
        check(
            "gates.decide_after",
            gates.decide_after != Some(0.0) || gates.start != GateStart::Alike || learned,
            ALL_ALIKE,
        );
        check(
            "train.policy",
            gates.decide_after.is_none() || self.train.policy == Policy::Argmax,
            "gates.decide_after decides for argmax; expected \"argmax\"",
        );
        let sizes = match gates.granularity {
            Granularity::Named(_) => vec![1],
            Granularity::Filters(size) => vec![size],
            Granularity::PerPlace(PerPlace { input, between, output }) => vec![input, between, output],
        };
        check("gates.granularity", !sizes.contains(&0), "expected at least 1 filter per gate");
        check("gates.sites", !gates.sites.is_empty(), "expected at least one of input, between, output, projection");

        let data = &self.data;
        check("data.image_size", (1..=4096).contains(&data.image_size), "expected 1 to 4096 pixels");
        check(
            "data.resize",
            (data.image_size..=8192).contains(&data.resize),
            &format!("expected data.image_size ({}) to 8192 pixels", data.image_size),
        );
        let (low, high) = data.crop_scale;
        check(
            "data.crop_scale",
            0.0 < low && low <= high && high <= 1.0,
            "expected [low, high] with 0 < low <= high <= 1",
        );
        let (low, high) = data.crop_ratio;
        check(
            "data.crop_ratio",
            0.0 < low && low <= high && high.is_finite(),
            "expected [low, high] with 0 < low <= high",
        );
        check("data.padding", data.padding <= data.image_size, "expected at most data.image_size");
        let [factors @ .., hue] = data.colour_jitter;
        check(
            "data.colour_jitter",
            factors.into_iter().all(not_negative) && (0.0..=0.5).contains(&hue),
            "expected brightness, contrast and saturation of at least 0 and a hue from 0 to 0.5",
        );
        check("data.erase", share(data.erase), "expected a probability from 0 to 1");
        check("data.mixup", not_negative(data.mixup), "expected a number of at least 0");
        check("data.cutmix", not_negative(data.cutmix), "expected a number of at least 0");
        check("data.flip", share(data.flip), "expected a probability from 0 to 1");
        check(
            "data.mean",
            data.mean.iter().all(|mean| (0.0..=1.0).contains(mean)),
            "expected three numbers from 0 to 1",
        );
        check(
            "data.std",
            data.std.iter().all(|std| *std > 0.0 && *std <= 1.0),
            "expected three numbers above 0, up to 1",
        );
        check("data.threads", data.threads <= 1024, "expected at most 1024 threads");
        check(
            "data.batches_ahead",
            data.batches_ahead.is_none_or(|ahead| (1..=1024).contains(&ahead)),
            "expected 1 to 1024 batches",
        );
        check("data.max_bad_share", share(data.max_bad_share), "expected a share from 0 to 1");

        let optimizer = &self.optimizer;
        check("optimizer.learning_rate", positive(optimizer.learning_rate), "expected a number above 0");
        check("optimizer.momentum", (0.0..1.0).contains(&optimizer.momentum), "expected a number from 0 to below 1");
        check("optimizer.weight_decay", not_negative(optimizer.weight_decay), "expected a number of at least 0");
        check(
            "optimizer.nesterov",
            !optimizer.nesterov || optimizer.momentum > 0.0,
            "Nesterov momentum needs optimizer.momentum above 0",
        );
        check(
            "optimizer.betas",
            optimizer.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "expected numbers from 0 to below 1",
        );
        check("optimizer.epsilon", positive(optimizer.epsilon), "expected a number above 0");
        check("optimizer.clip_norm", optimizer.clip_norm.is_none_or(positive), "expected a number above 0");

        let distillation = &self.distillation;
        check("distillation.share", share(distillation.share), "expected a share from 0 to 1");
        check("distillation.temperature", positive(distillation.temperature), "expected a number above 0");

        let LearningRate { warmup_epochs, step_epochs, step_factor, power, .. } = self.schedule;
        check("schedule.warmup_epochs", not_negative(warmup_epochs), "expected a number of at least 0");
        check(
            "schedule.warmup_epochs",
            warmup_epochs.is_nan() || warmup_epochs <= self.train.epochs as f64,
            "expected no more than train.epochs",
        );
        check("schedule.step_epochs", positive(step_epochs), "expected a number above 0");
        check("schedule.step_factor", step_factor > 0.0 && step_factor <= 1.0, "expected a number above 0, up to 1");
        check("schedule.power", positive(power), "expected a number above 0");

        let checkpoints = &self.checkpoints;
        check("checkpoints.every_minutes", not_negative(checkpoints.every_minutes), "expected a number of at least 0");
        check("checkpoints.keep_last", (1..=1000).contains(&checkpoints.keep_last), "expected 1 to 1,000");
        check("checkpoints.keep_best", (1..=1000).contains(&checkpoints.keep_best), "expected 1 to 1,000");

        let train = &self.train;
        let plain = !train.name.is_empty() && !train.name.starts_with('.') && !train.name.contains(['/', '\\']);
        check("train.name", plain, "expected a folder name without separators");
        check("train.epochs", (1..=1_000_000).contains(&train.epochs), "expected 1 to 1,000,000 epochs");
        check(
            "train.batch_size",
            (2..=1 << 20).contains(&train.batch_size),
            "expected at least 2 images: batch norm needs them",
        );
        check(
            "train.accumulate",
            train.accumulate >= 1 && train.accumulate <= train.batch_size / 2,
            "expected 1 to half of train.batch_size: batch norm needs two images in every part",
        );
        check(
            "train.average_decay",
            (0.0..1.0).contains(&train.average_decay),
            "expected a number from 0 to below 1, such as 0.9999",
        );
        check("train.eval_batch_size", (1..=1 << 20).contains(&train.eval_batch_size), "expected at least 1 image");
        check(
            "train.label_smoothing",
            (0.0..1.0).contains(&train.label_smoothing),
            "expected a number from 0 to below 1",
        );
        check("train.calibrate_batches", train.calibrate_batches <= 1_000_000, "expected at most 1,000,000 batches");
        check("train.log_every", train.log_every >= 1, "expected at least 1 step");
        check("train.seed", i64::try_from(train.seed).is_ok(), "expected a number below 2^63");

        let both = self.network.checkpoint.is_some() && self.network.weights.is_some();
        check("network.weights", !both, "network.checkpoint has weights of its own; give one of the two");
        if self.network.checkpoint.is_some() {
            // What its network allows is known once it is read.
            let message = gates.target.fault(None);
            check("gates.target", message.is_none(), &message.unwrap_or_default());
            return;
        }
        let spec = self.spec(1000);
        if gates.granularity != Granularity::NONE {
            let message = gates.target.fault(spec.as_ref().ok().map(|spec| spec.blocks.len()));
            check("gates.target", message.is_none(), &message.unwrap_or_default());
        }
        match spec {
            Err(error) => check("network.arch", false, &error.to_string()),
            Ok(spec) => {
                let size = data.image_size as usize;
                let fits = Cost::of(&spec, size, size);
                check("data.image_size", fits.is_ok(), &fits.err().map(|error| error.to_string()).unwrap_or_default());
                let wanted = gates.granularity != Granularity::NONE;
                let all_open = matches!(&gates.target, ActivationTarget::PerBlock(targets) if targets.iter().all(|target| *target == 1.0));
                let message = "every target is 1, so no gate is left; use gates.granularity = \"none\"";
                check("gates.target", !wanted || !all_open || spec.gate_count() > 0, message);
                let message =
                    "no group is left to gate; lower gates.fixed_open or the granularity, or choose other gates.sites";
                check("gates.granularity", !wanted || all_open || spec.gate_count() > 0, message);
            }
        }
    }
}

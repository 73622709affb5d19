//! What training minimizes: cross entropy + factor · activation loss.

use crate::config::{ActivationLoss, Config, LossOn, Weighting};
use crate::error::Result;
use crate::results::scheduled::Scheduled;
use arch::{Meter, Output, Spending};
use gumbel_gates::loss::{self, Sides};
use gumbel_gates::{GateValues, sampling};
use tch::{Kind, Reduction, Tensor};

/// The objective's terms and what they weigh.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// Share of the label spread evenly over all classes, as in `torch.nn.CrossEntropyLoss`.
    pub label_smoothing: f64,
    /// Which activation loss.
    pub activation: ActivationLoss,
    /// Which gate values it sees.
    pub loss_on: LossOn,
    /// What the activation is a share of.
    pub weighting: Weighting,
    /// Which misses of the target it sees.
    pub sides: Sides,
    /// What each gate counts: the MACs, or the cost, that it decides about. Absent where all count
    /// the same.
    pub gate_costs: Option<Vec<f64>>,
    /// How much a teacher counts, if there is one.
    pub distillation: Distillation,
}

/// How much a teacher counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// Share of the teacher in the loss.
    pub share: f64,
    /// Temperature of both networks' class probabilities.
    pub temperature: f64,
}

/// What the class logits of a batch should be.
#[derive(Debug)]
pub struct Labels {
    /// The images' labels `[N]`.
    pub labels: Tensor,
    /// The labels `[N]` of the images that were mixed into them, and the share of the images
    /// themselves; absent, they are whole.
    pub mixed: Option<(Tensor, f64)>,
    /// A teacher's class logits [N, classes], if there is one.
    pub teacher: Option<Tensor>,
}

impl Labels {
    /// Those of some of the images.
    ///
    /// # Errors
    /// If there are fewer images.
    pub fn narrow(&self, first: i64, count: i64) -> Result<Self> {
        let part = |of: &Tensor| of.f_narrow(0, first, count);
        let mixed = self.mixed.as_ref().map(|(others, share)| Ok::<_, tch::TchError>((part(others)?, *share)));
        Ok(Self {
            labels: part(&self.labels)?,
            mixed: mixed.transpose()?,
            teacher: self.teacher.as_ref().map(part).transpose()?,
        })
    }

    /// The labels `[N]` of what most of each image shows.
    pub fn dominant(&self) -> &Tensor {
        match &self.mixed {
            Some((others, share)) if *share < 0.5 => others,
            _ => &self.labels,
        }
    }
}

/// The objective of one batch, as scalar tensors.
#[derive(Debug)]
pub struct Terms {
    /// The sum, to differentiate.
    pub total: Tensor,
    /// Cross entropy, detached.
    pub cross_entropy: Tensor,
    /// Activation loss before its factor, detached; absent without gates.
    pub activation: Option<Tensor>,
}

impl Objective {
    /// The objective of a configuration for a network that spends so much of what its budget
    /// counts.
    pub fn new(config: &Config, spending: &Spending) -> Self {
        let (gates, distillation) = (&config.gates, &config.distillation);
        Self {
            label_smoothing: config.train.label_smoothing,
            activation: gates.loss,
            loss_on: gates.loss_on,
            sides: if gates.one_sided { Sides::Above } else { Sides::Both },
            weighting: gates.weighting,
            gate_costs: (gates.weighting != Weighting::Gates).then(|| spending.per_gate()),
            distillation: Distillation { share: distillation.share, temperature: distillation.temperature },
        }
    }

    /// The mean target over the gates, each counting what it weighs; `None` without gates.
    pub fn mean_target(&self, targets: &[f64]) -> Option<f64> {
        let weight = |gate: usize| self.gate_costs.as_ref().map_or(1.0, |costs| costs[gate]);
        let weights: f64 = (0..targets.len()).map(weight).sum();
        let sum: f64 = targets.iter().enumerate().map(|(gate, target)| weight(gate) * target).sum();
        // By a table gates may save nothing.
        if weights > 0.0 { Some(sum / weights) } else { targets.first().copied() }
    }

    /// The activation of gate values, a scalar tensor: the share of open gates, or of what `meter`
    /// counts.
    ///
    /// # Errors
    /// If there are no gates, or the gate values belong to another network.
    pub fn activation(&self, gate_values: &GateValues, meter: &Meter) -> Result<Tensor> {
        Ok(match self.weighting {
            Weighting::Gates => gate_values.mean()?,
            Weighting::Macs => meter.activation(gate_values)?,
            Weighting::Network | Weighting::CostTable => meter.share(gate_values)?,
        })
    }

    /// The objective for a forward pass.
    ///
    /// # Errors
    /// If there is not one target per gate.
    pub fn terms(&self, output: &Output, labels: &Labels, scheduled: &Scheduled, meter: &Meter) -> Result<Terms> {
        let cross_entropy = self.cross_entropy(&output.logits, labels)?;
        let mut total = cross_entropy.shallow_clone();
        if let Some(teacher) = &labels.teacher {
            let taught = self.distillation.loss(&output.logits, teacher)?;
            let (share, rest) = (self.distillation.share, 1.0 - self.distillation.share);
            total = total.f_mul_scalar(rest)?.f_add(&taught.f_mul_scalar(share)?)?;
        }
        let Some(target) = self.mean_target(&scheduled.targets).filter(|_| !output.gate_values.is_empty()) else {
            return Ok(Terms { total, cross_entropy: cross_entropy.f_detach()?, activation: None });
        };
        let deployed;
        let gate_values = match self.loss_on {
            LossOn::Sampled => &output.gate_values,
            // Gates that were cut are what is deployed.
            LossOn::Deployed if output.gate_logits.is_empty() => &output.gate_values,
            LossOn::Deployed => {
                deployed = Self::deployed(output, scheduled.temperature)?;
                &deployed
            }
        };
        let activation = match (self.activation, &self.gate_costs) {
            (ActivationLoss::PerGate, costs) => {
                loss::per_gate(gate_values, &scheduled.targets, costs.as_deref(), self.sides)?
            }
            (ActivationLoss::Batch, _) => loss::batch(&self.activation(gate_values, meter)?, target, self.sides)?,
        };
        total = total.f_add(&activation.f_mul_scalar(scheduled.loss_factor)?)?;
        if scheduled.polarization > 0.0 {
            total = total.f_add(&loss::indecision(&output.gate_logits)?.f_mul_scalar(scheduled.polarization)?)?;
        }
        Ok(Terms { total, cross_entropy: cross_entropy.f_detach()?, activation: Some(activation.f_detach()?) })
    }

    /// The mean over the batch, of mixed images each label by its share; class logits [N, classes].
    fn cross_entropy(&self, logits: &Tensor, labels: &Labels) -> Result<Tensor> {
        let against = |labels: &Tensor| {
            logits.f_cross_entropy_loss(
                labels,
                None::<&Tensor>,
                Reduction::Mean,
                -100, // PyTorch's ignore_index: no label is negative here
                self.label_smoothing,
            )
        };
        let own = against(&labels.labels)?;
        Ok(match &labels.mixed {
            None => own,
            Some((others, share)) => own.f_mul_scalar(*share)?.f_add(&against(others)?.f_mul_scalar(1.0 - share)?)?,
        })
    }

    /// The gate values that argmax would choose.
    fn deployed(output: &Output, temperature: f64) -> Result<GateValues> {
        let decide = |logits| Ok(sampling::decide(logits, temperature)?);
        Ok(GateValues::new(output.gate_logits.iter().map(decide).collect::<Result<_>>()?)?)
    }
}

impl Distillation {
    /// T² · KL(teacher ‖ student) with both softened by the temperature T, averaged over the batch
    /// (Hinton et al. 2015, section 2.1: the factor keeps the gradient's size). Logits [N,
    /// classes].
    fn loss(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let soften = |logits: &Tensor| logits.f_div_scalar(self.temperature)?.f_log_softmax(1, Kind::Float);
        let images = student.size2()?.0;
        let divergence = soften(student)?.f_kl_div(&soften(teacher)?, Reduction::Sum, true)?;
        Ok(divergence.f_mul_scalar(self.temperature * self.temperature / images as f64)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::{Cost, NetSpec};
    use gumbel_gates::GateKind;
    use tch::Device;

    /// Two images, two classes, two gates; class logits (0, 0) and (0, ln 3), labels 0 and 1.
    fn output() -> Output {
        let site = |values: [f32; 2]| Tensor::from_slice(&values).view([2, 1]);
        let gate = |closed: f32, open: f32| Tensor::from_slice(&[closed, open]).view([1, 1, 2]).repeat([2, 1, 1]);
        Output {
            logits: Tensor::from_slice(&[0.0f32, 0.0, 0.0, 3.0f32.ln()]).view([2, 2]),
            // Deployed: the first gate is open for both images, the second for none.
            gate_logits: vec![gate(0.0, 1.0), gate(2.0, 1.0)],
            gate_values: GateValues::new(vec![site([1.0, 0.0]), site([1.0, 0.0])]).unwrap(),
        }
    }

    fn labels(teacher: Option<Tensor>) -> Labels {
        Labels { labels: Tensor::from_slice(&[0i64, 1]), mixed: None, teacher }
    }

    /// These targets and this weight of the activation loss.
    fn scheduled(targets: Vec<f64>, loss_factor: f64) -> Scheduled {
        Scheduled { targets, loss_factor, temperature: 1.0, ..Scheduled::default() }
    }

    /// A network of two layer gates, of which the second decides about more MACs.
    fn cost() -> Cost {
        let spec = NetSpec::preset("resnet18", 2).unwrap();
        let spec = spec.with_layer_gates(GateKind::Independent, |block| [1, 2].contains(&block));
        Cost::of(&spec, 32, 32).unwrap()
    }

    fn terms(objective: &Objective) -> [f64; 3] {
        let scheduled = scheduled(vec![0.5, 0.9], 3.0);
        let meter = Meter::new(&cost().spending(), Device::Cpu).unwrap();
        let terms = objective.terms(&output(), &labels(None), &scheduled, &meter).unwrap();
        let activation = terms.activation.unwrap();
        [terms.total, terms.cross_entropy, activation].map(|term| term.to_kind(Kind::Double).double_value(&[]))
    }

    const PLAIN: Objective = Objective {
        label_smoothing: 0.0,
        activation: ActivationLoss::PerGate,
        loss_on: LossOn::Sampled,
        weighting: Weighting::Gates,
        sides: Sides::Both,
        gate_costs: None,
        distillation: Distillation { share: 0.5, temperature: 2.0 },
    };

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
    }

    #[test]
    fn the_objective_is_the_sum_of_its_terms() {
        // Cross entropy: (ln 2 + ln 4/3) / 2. Rates 0.5 and 0.5 against 0.5 and 0.9: 0.16 / 2.
        let [total, cross_entropy, activation] = terms(&PLAIN);
        close(cross_entropy, (2.0f64.ln() + (4.0f64 / 3.0).ln()) / 2.0);
        close(activation, 0.08);
        close(total, cross_entropy + 3.0 * 0.08);
    }

    #[test]
    fn the_batch_form_holds_the_mean_to_the_mean_target() {
        let [.., activation] = terms(&Objective { activation: ActivationLoss::Batch, ..PLAIN });
        close(activation, (0.7f64 - 0.5).powi(2));
    }

    #[test]
    fn one_sided_only_too_much_is_a_loss() {
        let one_sided = |target: f64| {
            let objective = Objective { activation: ActivationLoss::Batch, sides: Sides::Above, ..PLAIN };
            let scheduled = scheduled(vec![target; 2], 1.0);
            let meter = Meter::new(&cost().spending(), Device::Cpu).unwrap();
            let terms = objective.terms(&output(), &labels(None), &scheduled, &meter).unwrap();
            terms.activation.unwrap().double_value(&[])
        };
        assert_eq!(one_sided(0.6), 0.0);
        close(one_sided(0.4), 0.01);
    }

    #[test]
    fn weighted_by_macs_gates_count_what_they_decide_about() {
        let cost = cost();
        let macs: Vec<f64> = [1, 2].map(|block| cost.blocks[block].branch as f64).into();
        assert_ne!(macs[0], macs[1]);
        let share = macs[1] / (macs[0] + macs[1]);
        // Rates 0.5 and 0.5 against 0.5 and 0.9.
        let [.., activation] = terms(&weighted_by(&cost));
        close(activation, share * 0.16);
        let [.., activation] = terms(&Objective { activation: ActivationLoss::Batch, ..weighted_by(&cost) });
        close(activation, (0.5 * (1.0 - share) + 0.9 * share - 0.5).powi(2));
        // Deployed, the first gate is open and the second closed: their share of the gated MACs,
        // not of the gates.
        let objective =
            Objective { activation: ActivationLoss::Batch, loss_on: LossOn::Deployed, ..weighted_by(&cost) };
        let [.., activation] = terms(&objective);
        close(activation, (0.5 * (1.0 - share) + 0.9 * share - (1.0 - share)).powi(2));
    }

    fn weighted_by(cost: &Cost) -> Objective {
        Objective { weighting: Weighting::Macs, gate_costs: Some(cost.spending().per_gate()), ..PLAIN }
    }

    #[test]
    fn the_deployed_form_sees_the_decisions_of_argmax() {
        // Rates 1 and 0 against 0.5 and 0.9.
        let [.., activation] = terms(&Objective { loss_on: LossOn::Deployed, ..PLAIN });
        close(activation, (0.25 + 0.81) / 2.0);
    }

    #[test]
    fn mixed_images_count_for_both_their_labels() {
        let scheduled = scheduled(vec![0.5, 0.9], 0.0);
        let meter = Meter::new(&cost().spending(), Device::Cpu).unwrap();
        let mixed = Some((Tensor::from_slice(&[1i64, 0]), 0.75));
        let terms = PLAIN.terms(&output(), &Labels { mixed, ..labels(None) }, &scheduled, &meter).unwrap();
        // The first image is undecided; the second is ¾ of class 1 with probability ¾ and ¼ of
        // class 0.
        let second = 0.75 * (4.0f64 / 3.0).ln() + 0.25 * 4.0f64.ln();
        close(terms.cross_entropy.double_value(&[]), (2.0f64.ln() + second) / 2.0);
    }

    #[test]
    fn label_smoothing_spreads_over_all_classes() {
        // Targets 0.9 and 0.1 of ε = 0.2 over two classes.
        let [_, cross_entropy, _] = terms(&Objective { label_smoothing: 0.2, ..PLAIN });
        let (first, second) = (2.0f64.ln(), 0.9 * (4.0f64 / 3.0).ln() + 0.1 * 4.0f64.ln());
        close(cross_entropy, (first + second) / 2.0);
    }

    #[test]
    fn a_teacher_is_matched_at_a_temperature() {
        let distillation = Distillation { share: 0.25, temperature: 2.0 };
        let objective = Objective { distillation, ..PLAIN };
        let scheduled = scheduled(vec![0.5, 0.9], 0.0);
        let meter = Meter::new(&cost().spending(), Device::Cpu).unwrap();
        let total = |teacher: &[f32; 4]| {
            let labels = labels(Some(Tensor::from_slice(teacher).view([2, 2])));
            objective.terms(&output(), &labels, &scheduled, &meter).unwrap().total.double_value(&[])
        };
        let cross_entropy = (2.0f64.ln() + (4.0f64 / 3.0).ln()) / 2.0;
        // A teacher that answers as the network does has nothing to add.
        close(total(&[1.0, 1.0, 0.0, 3.0f32.ln()]), 0.75 * cross_entropy);
        // For the first image the softened teacher says (9, 1) / 10 where the network says (1, 1) /
        // 2.
        let divergence = 0.9 * 1.8f64.ln() + 0.1 * 0.2f64.ln();
        close(total(&[81.0f32.ln(), 0.0, 0.0, 3.0f32.ln()]), 0.75 * cross_entropy + 0.25 * 4.0 * divergence / 2.0);
    }

    #[test]
    fn indecision_counts_by_its_weight() {
        let meter = Meter::new(&cost().spending(), Device::Cpu).unwrap();
        let total = |polarization| {
            let scheduled = Scheduled { polarization, ..scheduled(vec![0.5, 0.9], 0.0) };
            let terms = PLAIN.terms(&output(), &labels(None), &scheduled, &meter).unwrap();
            terms.total.double_value(&[])
        };
        // Both gates have a margin of 1, either way.
        let p = 1.0 / (1.0 + 1.0f64.exp());
        close(total(2.0) - total(0.0), 2.0 * p * (1.0 - p));
    }
}

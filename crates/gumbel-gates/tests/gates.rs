//! Gates as a network uses them: exact gate values, gradients against the closed form, frequencies
//! against probabilities.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use gumbel_gates::loss::{self, Sides};
use gumbel_gates::{GateInput, GateKind, GateValues, Gates, Policy, sampling};
use tch::{Device, Kind, Tensor};
use torch_ext::{Statistics, Tensors, normal, uniform};

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("a flat tensor of doubles")
}

fn logits(closed: f64, open: f64, samples: i64) -> Tensor {
    Tensor::from_slice(&[closed as f32, open as f32]).view([1, 1, 2]).repeat([samples, 1, 1])
}

#[test]
fn noise_is_finite_for_every_uniform_value() {
    let extremes = [0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1e-30, 0.5, 1.0 - f32::EPSILON / 2.0, 1.0];
    for noise in values(&sampling::gumbel(&Tensor::from_slice(&extremes)).unwrap()) {
        assert!(noise.is_finite() && (-4.5..16.7).contains(&noise), "{noise}");
    }
}

#[test]
fn noise_equals_the_formula() {
    let noise = values(&sampling::gumbel(&Tensor::from_slice(&[0.1f32, 0.5, 0.9])).unwrap());
    for (found, u) in noise.iter().zip([0.1f64, 0.5, 0.9]) {
        assert!((found + (-u.ln()).ln()).abs() < 1e-6);
    }
}

#[test]
fn the_straight_through_gradient_equals_the_closed_form() {
    for temperature in [0.5, 1.0, 2.0] {
        let logits = (normal(&[40, 3, 2], 1).unwrap() * 2.0).set_requires_grad(true);
        let uniform = uniform(&[40, 3, 2], 2).unwrap();
        let weight = normal(&[40, 3], 3).unwrap();
        let gate_values = sampling::sample_with(&logits, &uniform, temperature).unwrap();
        (&gate_values * &weight).sum(Kind::Float).backward();

        let (l, u, w, g) = (values(&logits.detach()), values(&uniform), values(&weight), values(&logits.grad()));
        for (i, gate_value) in values(&gate_values.detach()).into_iter().enumerate() {
            let noisy = |j: usize| l[2 * i + j] - (-u[2 * i + j].ln()).ln();
            let margin = noisy(1) - noisy(0);
            assert_eq!(gate_value, f64::from(margin > 0.0));
            let p = 1.0 / (1.0 + (-margin / temperature).exp());
            let expected = w[i] * p * (1.0 - p) / temperature;
            assert!((g[2 * i + 1] - expected).abs() < 1e-5, "open: {} and {expected}", g[2 * i + 1]);
            assert!((g[2 * i] + expected).abs() < 1e-5, "closed: {} and {}", g[2 * i], -expected);
        }
    }
}

#[test]
fn gradients_are_finite_at_extreme_logits_and_noise() {
    let logits = Tensor::from_slice(&[-1e4f32, 1e4, 1e4, -1e4]).view([1, 2, 2]).set_requires_grad(true);
    let gate_values =
        sampling::sample_with(&logits, &Tensor::from_slice(&[0.0f32, 1.0, 1.0, 0.0]).view([1, 2, 2]), 1.0).unwrap();
    gate_values.sum(Kind::Float).backward();
    assert_eq!(values(&gate_values.detach()), [1.0, 0.0]);
    assert!(values(&logits.grad()).iter().all(|g| g.is_finite()));
}

#[test]
fn gates_open_as_often_as_their_probability_says() {
    let samples = 40_000;
    for (closed, open) in [(0.1, 2.0), (0.0, 0.0), (1.5, -0.5), (0.1, 4.0)] {
        let logits = logits(closed, open, samples);
        let p = 1.0 / (1.0 + f64::exp(closed - open));
        assert!((sampling::probability(&logits).unwrap().double_value(&[0, 0]) - p).abs() < 1e-6);
        let frequency = sampling::sample(&logits, 1.0, 11).unwrap().mean(Kind::Double).double_value(&[]);
        let deviation = (p * (1.0 - p) / samples as f64).sqrt();
        assert!((frequency - p).abs() < 4.0 * deviation, "{frequency} instead of {p}");
    }
}

#[test]
fn policies_decide_as_they_say() {
    let logits = Tensor::from_slice(&[0.0f32, 1.0, 1.0, 0.0, 0.5, 0.5]).view([1, 3, 2]);
    assert_eq!(
        values(&Policy::Argmax.decide(&logits, 0).unwrap()),
        [1.0, 0.0, 0.0],
        "a tie is closed: not above one half"
    );
    assert_eq!(values(&Policy::AlwaysOpen.decide(&logits, 0).unwrap()), [1.0; 3]);
    let logits = Tensor::zeros([1, 64, 2], (Kind::Float, Device::Cpu));
    let sample = |seed, site| Policy::Sample { temperature: 1.0, seed }.decide(&logits, site).unwrap();
    assert_eq!(sample(5, 0), sample(5, 0), "the seed fixes the sample");
    assert_ne!(sample(5, 0), sample(6, 0));
    assert_ne!(sample(5, 0), sample(5, 1), "sites draw noise of their own");
}

#[test]
fn thresholds_and_ranks_decide_by_probability() {
    // Probabilities 0.5, 0.73, 0.27 and 0.73; then the same mirrored.
    let margins = Tensor::from_slice(&[0.0f32, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 0.0]).view([2, 4, 1]);
    let logits = Tensor::cat(&[margins.zeros_like(), margins], 2);
    let decide = |policy: Policy| values(&policy.decide(&logits, 0).unwrap());
    assert_eq!(decide(Policy::Threshold(0.5)), decide(Policy::Argmax));
    assert_eq!(decide(Policy::Threshold(0.2)), [1.0; 8]);
    assert_eq!(decide(Policy::Threshold(0.7)), [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    assert_eq!(decide(Policy::Threshold(1.0)), [0.0; 8]);
    // Of equals the first.
    assert_eq!(decide(Policy::TopK(1)), [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(decide(Policy::TopK(3)), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    assert_eq!((decide(Policy::TopK(0)), decide(Policy::TopK(9))), (vec![0.0; 8], vec![1.0; 8]));
}

#[test]
fn policies_have_names() {
    for name in ["sample", "argmax", "always-open", "threshold=0.25", "topk=12"] {
        assert_eq!(name.parse::<Policy>().unwrap().to_string(), name);
    }
    for name in ["arg-max", "threshold", "threshold=1.5", "threshold=NaN", "topk=-1", "topk=1.5", "first=2"] {
        assert!(name.parse::<Policy>().unwrap_err().to_string().contains("expected argmax"), "{name}");
    }
}

#[test]
fn policies_are_saved_and_read_back_with_all_they_hold() {
    let temperatures = [1.0, 0.5, 0.1, 1.0 / 3.0, 2.0, 1.0 + f64::EPSILON, 1e-300, f64::from_bits(1), f64::MAX];
    let mut policies = vec![Policy::Argmax, Policy::AlwaysOpen];
    policies.extend([0.0, 0.1, 1.0 / 3.0, 1.0].map(Policy::Threshold));
    policies.extend([0, 12, usize::MAX].map(Policy::TopK));
    for temperature in temperatures {
        policies.push(Policy::StraightThrough { temperature });
        let seeds = [0, 1, (1 << 53) + 1, u64::MAX];
        policies.extend(seeds.map(|seed| Policy::Sample { temperature, seed }));
    }
    for policy in policies {
        let text = String::from(policy);
        assert_eq!(text.parse::<Policy>().unwrap(), policy, "{text}");
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy, "{json}");
        // Its name is that of a policy too.
        policy.to_string().parse::<Policy>().unwrap();
    }
}

#[test]
fn saved_policies_stay_readable() {
    let sample = |temperature, seed| Policy::Sample { temperature, seed };
    let straight_through = |temperature| Policy::StraightThrough { temperature };
    let texts = [
        (Policy::Argmax, "argmax"),
        (Policy::AlwaysOpen, "always-open"),
        (Policy::Threshold(0.25), "threshold=0.25"),
        (Policy::TopK(12), "topk=12"),
        (sample(1.0, 0), "sample"),
        (sample(0.5, 0), "sample=0.5"),
        (sample(1.0, 9), "sample=1:9"),
        (sample(0.5, u64::MAX), "sample=0.5:18446744073709551615"),
        (straight_through(1.0), "straight-through"),
        (straight_through(2.5), "straight-through=2.5"),
    ];
    for (policy, text) in texts {
        assert_eq!(String::from(policy), text);
        assert_eq!(text.parse::<Policy>().unwrap(), policy);
    }
    let names = [sample(0.5, 9), straight_through(2.5)].map(|policy| policy.to_string());
    assert_eq!(names, ["sample", "straight-through"]);
}

#[test]
fn what_is_no_policy_is_refused() {
    let numbers = ["", "0", "-1", "NaN", "inf", "1e400", "1e-400", "x", ":3", "1:2:3", "1,7"];
    let seeds = ["1:", "1:-1", "1:0.5", "1:18446744073709551616"];
    let others = ["", "Sample", " sample", "sample:3", "argmax=1", "always-open=1", "straight-through=1:2"];
    let mut texts = others.map(String::from).to_vec();
    texts.extend(numbers.iter().chain(&seeds).map(|number| format!("sample={number}")));
    texts.extend(numbers.iter().map(|number| format!("straight-through={number}")));
    for text in texts {
        let error = text.parse::<Policy>().unwrap_err().to_string();
        for form in ["sample=TEMPERATURE[:SEED]", "straight-through[=TEMPERATURE]"] {
            assert!(error.contains(form), "{text}: {error}");
        }
        assert!(serde_json::from_value::<Policy>(text.into()).is_err());
    }
}

#[test]
fn decisions_without_noise_are_argmaxs_and_have_the_gradient_of_the_probability() {
    let logits = (normal(&[20, 3, 2], 8).unwrap() * 2.0).set_requires_grad(true);
    let gate_values = sampling::decide(&logits, 0.5).unwrap();
    assert_eq!(values(&gate_values.detach()), values(&Policy::Argmax.decide(&logits.detach(), 0).unwrap()));
    gate_values.sum(Kind::Float).backward();
    let gradients = values(&logits.grad().copy());
    // As a policy it is the same.
    let _ = logits.grad().zero_();
    let policy = Policy::StraightThrough { temperature: 0.5 };
    policy.decide(&logits, 4).unwrap().sum(Kind::Float).backward();
    assert_eq!(values(&logits.grad()), gradients);
    for (i, pair) in values(&logits.detach()).chunks(2).enumerate() {
        let p = 1.0 / (1.0 + (-(pair[1] - pair[0]) / 0.5).exp());
        assert!((gradients[2 * i + 1] - p * (1.0 - p) / 0.5).abs() < 1e-5);
        assert!((gradients[2 * i] + p * (1.0 - p) / 0.5).abs() < 1e-5);
    }
}

#[test]
fn new_gates_are_mostly_open_and_hold_the_parameters_they_say() {
    for (kind, initial, rate) in [(GateKind::Dependent, (0.1, 2.0), 0.87), (GateKind::Independent, (0.1, 4.0), 0.98)] {
        let mut tensors = Tensors::new(Device::Cpu, 1);
        let gates = Gates::build(&mut tensors.root().sub("gate"), kind, 3, 8, initial).unwrap();
        let input = normal(&[32, 8, 5, 5], 4).unwrap();
        let logits = gates.logits(&GateInput::new(&input), Statistics::TRAINING).unwrap();
        assert_eq!(logits.size(), [32, 3, 2]);
        let probability = sampling::probability(&logits).unwrap();
        assert!(values(&probability).iter().all(|p| (p - rate).abs() < 0.01));
        let held: usize = tensors.parameters().map(|entry| entry.tensor.numel()).sum();
        assert_eq!(held as u64, Gates::parameters(kind, 3, 8));
        assert!(tensors.iter().all(|entry| entry.group == gumbel_gates::GATE_GROUP));
    }
}

#[test]
fn independent_gates_ignore_the_input_and_dependent_ones_look_at_it() {
    for (kind, same) in [(GateKind::Independent, true), (GateKind::Dependent, false)] {
        let mut tensors = Tensors::new(Device::Cpu, 1);
        let gates = Gates::build(&mut tensors.root(), kind, 1, 4, (0.1, 2.0)).unwrap();
        let input = normal(&[2, 4, 3, 3], 5).unwrap();
        let logits = gates.logits(&GateInput::new(&input), Statistics::Running).unwrap();
        assert_eq!(logits.get(0) == logits.get(1), same, "{kind:?}");
    }
}

#[test]
fn shifts_move_the_margins_of_every_input_alike() {
    for kind in [GateKind::Independent, GateKind::Dependent] {
        let mut tensors = Tensors::new(Device::Cpu, 3);
        let gates = Gates::build(&mut tensors.root(), kind, 3, 8, (0.1, 2.0)).unwrap();
        let input = normal(&[5, 8, 4, 4], 1).unwrap();
        let margins =
            || sampling::margin(&gates.logits(&GateInput::new(&input), Statistics::Running).unwrap()).unwrap().detach();
        let before = margins();
        gates.shift(&Tensor::from_slice(&[0.5f32, -3.0, 0.0])).unwrap();
        let moved = values(&(margins() - before));
        for (gate, by) in [0.5, -3.0, 0.0].into_iter().enumerate() {
            assert!(moved.iter().skip(gate).step_by(3).all(|moved| (moved - by).abs() < 1e-5), "{kind:?}: {moved:?}");
        }
        assert!(
            gates.shift(&Tensor::from_slice(&[1.0f32, 1.0])).unwrap_err().to_string().contains("2 values for 3 gates")
        );
    }
}

#[test]
fn indecision_is_the_variance_of_a_gate_and_pushes_it_away_from_one_half() {
    let logits =
        Tensor::from_slice(&[0.0f32, 3.0f32.ln(), 0.0, -(3.0f32.ln())]).view([1, 2, 2]).set_requires_grad(true);
    let decided = Tensor::from_slice(&[0.0f32, 60.0]).view([1, 1, 2]);
    // p = 3/4, 1/4 and 1.
    let indecision = loss::indecision(&[logits.shallow_clone(), decided]).unwrap();
    assert!((indecision.double_value(&[]) - 2.0 * (3.0 / 16.0) / 3.0).abs() < 1e-6);
    indecision.backward();
    // (1 − 2p) · p(1 − p) / 3.
    let expected = 0.5 * (3.0 / 16.0) / 3.0;
    for (found, expected) in values(&logits.grad()).into_iter().zip([expected, -expected, -expected, expected]) {
        assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
    }
    assert!(loss::indecision(&[]).is_err());
}

#[test]
fn the_per_gate_loss_and_its_gradient_equal_values_derived_by_hand() {
    // Rates 0.75 and 0.25; targets 0.5 and 0.7: ((0.25)² + (−0.45)²) / 2 = 0.1325.
    let first = Tensor::from_slice(&[1.0f32, 1.0, 1.0, 0.0]).view([4, 1]).set_requires_grad(true);
    let second = Tensor::from_slice(&[0.0f32, 0.0, 1.0, 0.0]).view([4, 1]).set_requires_grad(true);
    let gate_values = GateValues::new(vec![first.shallow_clone(), second.shallow_clone()]).unwrap();
    let loss = loss::per_gate(&gate_values, &[0.5, 0.7], None, Sides::Both).unwrap();
    assert!((loss.double_value(&[]) - 0.1325).abs() < 1e-6);
    loss.backward();
    // ∂/∂gate value = 2 (rate − target) / (gates · batch).
    assert!(values(&first.grad()).iter().all(|g| (g - 2.0 * 0.25 / 8.0).abs() < 1e-6));
    assert!(values(&second.grad()).iter().all(|g| (g + 2.0 * 0.45 / 8.0).abs() < 1e-6));
}

#[test]
fn the_batch_loss_and_its_gradient_equal_values_derived_by_hand() {
    // Two sites of 1 and 2 gates, batch 2; 4 of 6 open: a = 2/3, target 0.5: (1/6)² = 1/36.
    let first = Tensor::from_slice(&[1.0f32, 1.0]).view([2, 1]).set_requires_grad(true);
    let second = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0]).view([2, 2]).set_requires_grad(true);
    let gate_values = GateValues::new(vec![first.shallow_clone(), second.shallow_clone()]).unwrap();
    let loss = loss::batch(&gate_values.mean().unwrap(), 0.5, Sides::Both).unwrap();
    assert!((loss.double_value(&[]) - 1.0 / 36.0).abs() < 1e-6);
    loss.backward();
    for gradient in values(&first.grad()).into_iter().chain(values(&second.grad())) {
        assert!((gradient - 2.0 * (1.0 / 6.0) / 6.0).abs() < 1e-6);
    }
}

#[test]
fn weights_and_the_one_sided_form_equal_values_derived_by_hand() {
    // Rates 0.75 and 0.25 against 0.5 and 0.7, weights 3 and 1: (3 · 0.25² + 0.45²) / 4.
    let site = |values: [f32; 4]| Tensor::from_slice(&values).view([4, 1]).set_requires_grad(true);
    let sites = [site([1.0, 1.0, 1.0, 0.0]), site([0.0, 0.0, 1.0, 0.0])];
    let gate_values = GateValues::new(sites.iter().map(Tensor::shallow_clone).collect()).unwrap();
    let per_gate = |weights, sides| loss::per_gate(&gate_values, &[0.5, 0.7], weights, sides).unwrap();
    let found = per_gate(Some(&[3.0, 1.0][..]), Sides::Both).double_value(&[]);
    assert!((found - (3.0 * 0.0625 + 0.2025) / 4.0).abs() < 1e-6);
    // Only the first gate is open too often; the second has no gradient.
    let one_sided = per_gate(None, Sides::Above);
    assert!((one_sided.double_value(&[]) - 0.0625 / 2.0).abs() < 1e-6);
    one_sided.backward();
    assert!(values(&sites[0].grad()).iter().all(|g| (g - 2.0 * 0.25 / 8.0).abs() < 1e-6));
    assert_eq!(values(&sites[1].grad()), [0.0; 4]);
    let batch = |target| loss::batch(&gate_values.mean().unwrap(), target, Sides::Above).unwrap().double_value(&[]);
    assert!((batch(0.3) - 0.04).abs() < 1e-6);
    assert_eq!(batch(0.6), 0.0);
}

#[test]
fn faults_are_told() {
    assert!(GateValues::default().mean().is_err());
    let gate_values = GateValues::new(vec![Tensor::ones([4, 2], (Kind::Float, Device::Cpu))]).unwrap();
    assert_eq!(
        loss::per_gate(&gate_values, &[0.5], None, Sides::Both).unwrap_err().to_string(),
        "1 values for 2 gates; give one activation target, and one weight if any, per gate"
    );
    let uneven = [3, 4].map(|n| Tensor::ones([n, 1], (Kind::Float, Device::Cpu)));
    assert!(GateValues::new(uneven.into()).is_err());
    assert!(sampling::probability(&Tensor::ones([4, 3], (Kind::Float, Device::Cpu))).is_err());
}

//! Learning rates and mixed and erased images against PyTorch's and torchvision's; skips where that
//! Python is not set up.

#![cfg(test)]

use crate::config::Config;
use crate::config::schedule::{LearningRate, Shape};
use crate::learn::erase::rectangle;
use crate::learn::mix::Mix;
use crate::method::objective::{Labels, Objective};
use crate::results::scheduled::Scheduled;
use arch::{Cost, Meter, NetSpec, Output};
use gumbel_gates::GateValues;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use reference::{PyTorch, deciles};
use serde_json::{Value, json};
use tch::{Device, Tensor};
use torch_ext::normal;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn learning_rates_are_pytorchs() {
    let plain = LearningRate::default();
    let schedules = [
        LearningRate { step_epochs: 3.0, step_factor: 0.2, ..plain },
        LearningRate { shape: Shape::Cosine, ..plain },
        LearningRate { shape: Shape::Cosine, warmup_epochs: 2.0, ..plain },
        LearningRate { shape: Shape::Polynomial, power: 2.0, warmup_epochs: 1.5, ..plain },
        LearningRate { shape: Shape::Polynomial, power: 0.9, ..plain },
        LearningRate { shape: Shape::Constant, warmup_epochs: 3.0, ..plain },
    ];
    let (steps_per_epoch, epochs) = (20, 9);
    let calls = schedules.map(|schedule| {
        let steps = |epochs: f64| (epochs * steps_per_epoch as f64) as u64;
        let (warmup, drop_every) = (steps(schedule.warmup_epochs), steps(schedule.step_epochs));
        let (factor, power) = (schedule.step_factor, schedule.power);
        json!(["learning_rates", {
            "shape": schedule.shape, "warmup": warmup, "steps": steps_per_epoch * epochs, "drop_every": drop_every,
            "factor": factor, "power": power,
        }])
    });
    let Some(pytorch) = PyTorch::find() else { return };
    let expected = pytorch.call(&calls);
    for (schedule, expected) in schedules.iter().zip(expected) {
        let expected = numbers(&expected);
        assert_eq!(expected.len() as u64, steps_per_epoch * epochs);
        for (step, expected) in expected.iter().enumerate() {
            let found = schedule.factor(step as u64, steps_per_epoch, epochs);
            assert!((found - expected).abs() < 1e-9, "{schedule:?}, step {step}: {found} and {expected}");
        }
    }
}

#[test]
fn mixed_images_and_their_loss_are_torchvisions() {
    let size = 9u32;
    let side = i64::from(size);
    let (images, logits) = (normal(&[2, 3, side, side], 1).unwrap(), normal(&[2, 5], 2).unwrap());
    let labels = [3i64, 1];
    let smoothing = 0.1;
    let nested = |tensor: &Tensor| -> Value {
        // [2, ...] as nested lists.
        fn list(tensor: &Tensor) -> Value {
            match tensor.dim() {
                0 => json!(tensor.double_value(&[])),
                _ => (0..tensor.size()[0]).map(|at| list(&tensor.get(at))).collect(),
            }
        }
        list(tensor)
    };
    let cases = [
        (0.3, None),
        (0.8, None),
        (0.75, Some([4, 4])),
        (0.4, Some([0, 7])),
        (0.1, Some([8, 8])),
        (0.999, Some([3, 5])),
    ];
    let calls = cases.map(|(share, center)| {
        json!(["mixed", {
            "images": nested(&images), "labels": labels, "logits": nested(&logits), "share": share,
            "center": center, "smoothing": smoothing,
        }])
    });
    let Some(pytorch) = PyTorch::find() else { return };
    let expected = pytorch.call(&calls);
    let spec = NetSpec::preset("resnet18", 5).unwrap();
    let cost = Cost::of(&spec, 32, 32).unwrap();
    let mut config = Config::default();
    config.train.label_smoothing = smoothing;
    let objective = Objective::new(&config, &cost.spending());
    let meter = Meter::new(&cost.spending(), Device::Cpu).unwrap();
    let output = Output { logits, gate_logits: Vec::new(), gate_values: GateValues::new(Vec::new()).unwrap() };
    let scheduled = Scheduled { temperature: 1.0, ..Scheduled::default() };
    let labels = Tensor::from_slice(&labels);
    for ((share, center), expected) in cases.into_iter().zip(expected) {
        let mix = center.map_or(Mix::Blend { share }, |center| Mix::paste(size, share, center));
        let found: Vec<f64> =
            Vec::try_from(mix.images(&images).unwrap().flatten(0, -1).to_kind(tch::Kind::Double)).unwrap();
        let pixels = numbers(&expected["images"]);
        assert_eq!(found.len(), pixels.len());
        for (found, expected) in found.iter().zip(pixels) {
            assert!((found - expected).abs() < 1e-6, "{mix:?}: {found} and {expected}");
        }
        let others = Some((Mix::others(&labels).unwrap(), mix.share()));
        let labels = Labels { labels: labels.shallow_clone(), mixed: others, teacher: None };
        let found = objective.terms(&output, &labels, &scheduled, &meter).unwrap().cross_entropy.double_value(&[]);
        let expected = expected["cross_entropy"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6, "{mix:?}: {found} and {expected}");
    }
}

#[test]
fn erased_rectangles_are_distributed_as_torchvisions() {
    let (size, count) = (64, 20_000);
    let Some(pytorch) = PyTorch::find() else { return };
    let expected = pytorch.call(&[json!(["erased", { "size": size, "count": count }])]);
    let expected: Vec<[i64; 4]> = serde_json::from_value(expected[0].clone()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let found: Vec<[i64; 4]> = (0..count).map(|_| rectangle(size, &mut random).unwrap()).collect();
    for of_rectangle in 0..4 {
        let of = |rectangles: &[[i64; 4]]| deciles(rectangles.iter().map(|one| one[of_rectangle]).collect());
        let (found, expected) = (of(&found), of(&expected));
        let close = found.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1);
        assert!(close, "{of_rectangle} of top, left, height, width: {found:?} and {expected:?}");
    }
}

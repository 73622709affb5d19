//! Published weights and those of other programs.

use crate::calls::{failure, stderr, stdout, train};
use crate::fixture::{best, fixture};
use crate::support::path;
use reference::{repository, skip};
use std::fs;
use std::process::Command;

#[test]
fn published_weights_reach_their_accuracy() {
    let shared = repository().join("../shared");
    let (weights, images) = (shared.join("weights/resnet20-12fca82f.th"), shared.join("data/cifar10-jpeg.tar"));
    if !weights.exists() || !images.exists() {
        skip(&format!("no CIFAR-10 weights and images in {}", shared.display()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .args(["-xf", path(&images), "-C", path(folder.path()), "--wildcards", "*test/*"])
        .status()
        .unwrap();
    assert!(unpacked.success());
    let data = folder.path().join("test");
    let arguments = ["eval", "--arch", "cifar-resnet20", "--weights", path(&weights), "--data", path(&data), "--json"];
    let result: serde_json::Value = serde_json::from_slice(&train(&arguments).stdout).unwrap();
    // PyTorch measures 81.03 % on these files.
    assert!((result["top1"].as_f64().unwrap() - 0.8103).abs() < 0.001, "{}", result["top1"]);
}

#[test]
fn weights_are_fetched_checked_and_never_overwritten() {
    let script = repository().join("scripts/fetch_weights.sh");
    let folder = tempfile::tempdir().unwrap();
    let (mirror, target) = (folder.path().join("mirror"), folder.path().join("weights"));
    fs::create_dir(&mirror).unwrap();
    fs::create_dir(&target).unwrap();
    let fetch = |name: &str| {
        let mut command = Command::new(&script);
        command.args([name, path(&target)]).env("WEIGHTS_URL", format!("file://{}", path(&mirror)));
        let output = command.output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, message) = fetch("vgg16");
    assert_eq!(code, Some(2));
    assert!(message.contains("no weights are known for 'vgg16'; known are resnet18, resnet34"), "{message}");
    assert_eq!(fetch("resnet50").0, Some(1), "the mirror has no such file");
    fs::write(mirror.join("resnet50-0676ba61.pth"), "something else").unwrap();
    let (code, message) = fetch("resnet50");
    assert_eq!(code, Some(1));
    assert!(message.contains("SHA-256 does not begin with 0676ba61; nothing was written"), "{message}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    fs::write(target.join("resnet50.pth"), "mine").unwrap();
    assert!(fetch("resnet50").1.contains("exists and is another file"));
    assert_eq!(fs::read_to_string(target.join("resnet50.pth")).unwrap(), "mine");
}

#[test]
fn a_classifier_for_other_classes_is_fresh_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let network = arch::Network::build(&arch::NetSpec::preset("resnet18", 10).unwrap(), tch::Device::Cpu, 1).unwrap();
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&file, arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap()).unwrap();
    let output = train(&["inspect", "--arch", "resnet18", "--weights", path(&file), "--num-classes", "7"]);
    assert!(stdout(&output).contains("resnet18, 7 classes"));
    assert!(stderr(&output).contains("the classifier is fresh:") && stderr(&output).contains("has 10 classes"));
}

#[test]
fn the_weights_of_torchvision_are_evaluated_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let spec = arch::NetSpec::preset("resnet18", 10).unwrap();
    let network = arch::Network::build(&spec, tch::Device::Cpu, 1).unwrap();
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&file, arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap()).unwrap();
    let (file, data) = (path(&file), path(&fixture().data));
    let output = train(&["eval", "--arch", "resnet18", "--weights", file, "--data", data, "--json"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&result["images"], &result["open_rate"]), (&20.into(), &serde_json::Value::Null));
    let text = stdout(&train(&["inspect", "--arch", "resnet18", "--weights", file]));
    assert!(text.contains("resnet18, 10 classes"), "{text}");
    assert!(failure(&["inspect", file], 1).contains("--arch NAME --weights FILE"));
    assert!(
        failure(&["eval", "--arch", "resnet18", "--weights", path(&best()), "--data", data], 2)
            .contains("is a checkpoint; give it as --checkpoint")
    );
}

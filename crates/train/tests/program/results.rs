//! Results that reach whoever asked for them, whatever the names, and what is said along the way.

use crate::calls::{failure, json, stderr, stdout, train};
use crate::fixture::{best, fixture, sample_set};
use crate::support::{path, program};
use std::fs;
use std::process::Command;

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let inspect = format!("inspect {}", path(&best()));
    for (call, to, says) in [
        (&*inspect, "> /dev/full", "No space left on device"),
        (&*inspect, ">&-", "it is closed"),
        ("--help", "> /dev/full", "No space left on device"),
        ("--version", ">&-", "it is closed"),
    ] {
        let line = format!("exec {} {call} {to}", env!("CARGO_BIN_EXE_train"));
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {message}");
        assert!(
            message.contains("cannot write the result to the standard output") && message.contains(says),
            "{message}"
        );
    }
    // Somebody who has read enough is content.
    let line = format!("{} --help | head -n 1", env!("CARGO_BIN_EXE_train"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &line]).output().unwrap();
    assert!(output.status.success() && stderr(&output).is_empty(), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn names_that_are_no_utf_8_have_a_form_in_json() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join(OsStr::from_bytes(b"caf\xe9.png"));
    let drawn = data::images_below(sample_set()).unwrap();
    fs::copy(&drawn[0], &image).unwrap();
    let output = program().args(["predict", "--json", "--checkpoint", path(&best())]).arg(&image).output().unwrap();
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result["images"][0]["image"].as_str().unwrap().ends_with(r"caf\xE9.png"), "{result}");
}

#[test]
fn folders_are_classified_image_by_image_and_runs_mean_their_best_state() {
    let (set, run) = (path(sample_set()), path(&fixture().run));
    let result = json(&["predict", "--checkpoint", run, set]);
    let images = result["images"].as_array().unwrap();
    assert_eq!(images.len(), data::images_below(sample_set()).unwrap().len());
    let of_file = json(&["predict", "--checkpoint", path(&best()), images[7]["image"].as_str().unwrap()]);
    let first = |image: &serde_json::Value| image["classes"][0].clone();
    let (alone, among) = (first(&of_file["images"][0]), first(&images[7]));
    assert_eq!(alone["class"], among["class"]);
    let [alone, among] = [alone, among].map(|class| class["probability"].as_f64().unwrap());
    assert!((alone - among).abs() < 1e-5, "{alone} alone, {among} in a batch");
    let empty = tempfile::tempdir().unwrap();
    assert!(failure(&["predict", "--checkpoint", run, path(empty.path())], 1).contains("holds no images ("));
}

#[test]
fn weights_of_imagenet_answer_with_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.pth");
    let spec = arch::NetSpec::preset("resnet18", 1000).unwrap();
    let network = arch::Network::build(&spec, tch::Device::Cpu, 1).unwrap();
    let bias = &network.tensors().get("fc.bias").unwrap().tensor;
    let _ = tch::no_grad(|| bias.shallow_clone().get(207).fill_(1e3));
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&file, arch::state_dict::torch_bytes(tensors).unwrap()).unwrap();
    let image = data::images_below(sample_set()).unwrap();
    let result = json(&["predict", "--arch", "resnet18", "--weights", path(&file), path(&image[0])]);
    assert_eq!(result["images"][0]["classes"][0]["class"], "golden retriever");
}

#[test]
fn a_finished_run_ends_with_a_command_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("a run");
    let copied = Command::new("cp").args(["-r", path(&fixture().run), path(&run)]).status().unwrap();
    assert!(copied.success());
    // Its gates are made to ignore the image by the configuration of another run: they are not, so
    // the command observes them.
    let printed = stdout(&train(&["fit", "--resume", "--out", path(&run)]));
    let next = printed.lines().find_map(|line| line.strip_prefix("next")).expect("a next command").trim();
    assert!(next.contains(" prune --checkpoint '") && next.contains("a run/checkpoints/best.safetensors' --data "));
    let output = Command::new("sh").args(["-c", next]).current_dir(folder.path()).output().unwrap();
    let told = stderr(&output);
    // Gates that all differ between images leave nothing to cut, which is an answer too.
    let done = folder.path().join("pruned.safetensors").exists() || told.contains("nothing to prune");
    assert!(done, "{next}: {} {told}", stdout(&output));
}

#[test]
fn a_missing_configuration_is_wrong_usage() {
    assert!(failure(&["fit", "--config", "/nowhere.toml", "--data", "x"], 2).contains("cannot read /nowhere.toml"));
}

#[test]
fn a_list_survives_the_shell() {
    let data = path(sample_set());
    let config = path(&fixture().config);
    let set = ["--set", "gates.granularity=medium", "--set"];
    let fit = ["fit", "--dry-run", "--config", config, "--data", data];
    let sites = |sites: &str| train(&[&fit[..], &set, &[&format!("gates.sites={sites}")]].concat());
    for named in ["between", "input,between", "[between]", "\"between\"", "[\"between\"]"] {
        let output = sites(named);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert!(stderr(&sites("between,nowhere")).contains("gates.sites"));
}

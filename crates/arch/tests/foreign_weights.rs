//! Weights as people have them: under other names, among other things, from other programs.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::state_dict::{StateDict, safetensors};
use arch::{Classifier, FreshClassifier, NetSpec, Network};
use reference::PyTorch;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

type Named = Vec<(String, Tensor)>;

fn network(arch: &str, seed: u64) -> Network {
    Network::build(&NetSpec::preset(arch, 5).unwrap(), Device::Cpu, seed).unwrap()
}

fn contents(network: &Network) -> Named {
    network.tensors().iter().map(|entry| (entry.name.clone(), entry.tensor.detach().copy())).collect()
}

/// The tensors as a file that was read.
fn file(tensors: Named) -> StateDict {
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let bytes = safetensors::to_bytes(tensors, ("about", "a test".into())).unwrap();
    StateDict::parse(Path::new("w.safetensors"), &bytes).unwrap()
}

fn one() -> Tensor {
    Tensor::ones([1], (Kind::Float, Device::Cpu))
}

#[test]
fn a_prefix_of_all_names_is_taken_off_and_said() {
    let first = network("cifar-resnet20", 1);
    for prefix in ["backbone.", "model.net.", "module._orig_mod.", "_orig_mod.module."] {
        let mut tensors: Named =
            contents(&first).into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
        tensors.push((format!("{prefix}total_ops"), one()));
        tensors.push(("n_averaged".into(), one()));
        let second = network("cifar-resnet20", 2);
        let loaded = second.load(&file(tensors), Classifier::Required).unwrap();
        assert_eq!(contents(&first), contents(&second), "{prefix}");
        let said = format!("'{prefix}' is taken off the names of w.safetensors");
        assert_eq!(loaded.notes, if prefix.contains("mod") && !prefix.contains("model") { vec![] } else { vec![said] });
    }
}

#[test]
fn tensors_beside_a_prefix_are_left_out_and_counted() {
    let (first, average) = (contents(&network("cifar-resnet20", 1)), contents(&network("cifar-resnet20", 3)));
    let under = |prefix: &str, tensors: &Named| -> Named {
        tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.copy())).collect()
    };
    let both = [under("ema.", &average), under("student.", &first)].concat_named();
    let second = network("cifar-resnet20", 2);
    let loaded = second.load(&file(both), Classifier::Required).unwrap();
    assert_eq!(contents(&second), first, "plain weights count before averaged ones");
    let said =
        format!("'student.' is taken off the names of w.safetensors; {} other tensors are left out", first.len());
    assert_eq!(loaded.notes[0], said);
    let chosen = "of several such networks in the file, the one at 'student.' is taken; the others are at 'ema.'";
    assert_eq!(loaded.notes[1], chosen);
    // The same where the plain one has no prefix.
    let both = [under("ema.", &average), under("", &first)].concat_named();
    let loaded = network("cifar-resnet20", 4).load(&file(both), Classifier::Required).unwrap();
    assert!(
        loaded.notes[0].contains("the one without a prefix is taken; the others are at 'ema.'"),
        "{:?}",
        loaded.notes
    );
    // A network beside a larger one is the one that fits.
    let larger = contents(&network("cifar-resnet56", 3));
    let both = [under("teacher.", &larger), under("net.", &first)].concat_named();
    let third = network("cifar-resnet20", 2);
    let weights = file(both);
    assert_eq!(weights.classes_of(third.spec()), Some(5));
    third.load(&weights, Classifier::Required).unwrap();
    assert_eq!(contents(&third), first);
    // A classifier beside a wrapped backbone belongs to it.
    let is_head = |name: &str| name.starts_with("linear.");
    let wrapped = first
        .iter()
        .map(|(name, tensor)| (if is_head(name) { name.clone() } else { format!("backbone.{name}") }, tensor.copy()));
    let fourth = network("cifar-resnet20", 2);
    fourth.load(&file(wrapped.collect()), Classifier::Required).unwrap();
    assert_eq!(contents(&fourth), first);
    // Whole numbers are no weights.
    let whole = first.iter().map(|(name, tensor)| (name.clone(), tensor.to_kind(Kind::Int)));
    let error = fourth.load(&file(whole.collect()), Classifier::Required).unwrap_err().to_string();
    assert!(error.contains("tensors of whole numbers where float32"), "{error}");
    // Without a prefix an unknown tensor is a fault, as ever.
    let mut tensors = first.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect::<Named>();
    tensors.push(("projector.weight".into(), one()));
    let error = second.load(&file(tensors), Classifier::Required).unwrap_err().to_string();
    assert!(error.contains("1 tensor unknown: projector.weight"), "{error}");
}

/// `concat` for tensors, which are no `Clone`.
trait ConcatNamed {
    fn concat_named(self) -> Named;
}

impl ConcatNamed for [Named; 2] {
    fn concat_named(self) -> Named {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn a_backbone_without_a_classifier_can_be_fine_tuned() {
    let mut tensors = contents(&network("resnet18", 1));
    tensors.retain(|(name, _)| !name.starts_with("fc."));
    let second = network("resnet18", 2);
    let weights = file(tensors);
    let loaded = second.load(&weights, Classifier::MayBeFresh).unwrap();
    assert_eq!(loaded.fresh_classifier, Some(FreshClassifier::Absent));
    let error = second.load(&weights, Classifier::Required).unwrap_err().to_string();
    assert!(error.contains("2 tensors missing: fc.weight, fc.bias"), "{error}");
}

#[test]
fn weights_of_another_preset_name_it() {
    let error = network("resnet18", 1).load(&file(contents(&network("resnet34", 2))), Classifier::Required);
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("these are weights of resnet34"), "{error}");
    let error = network("cifar-resnet56", 1).load(&file(contents(&network("cifar-resnet20", 2))), Classifier::Required);
    assert!(error.unwrap_err().to_string().ends_with("these are weights of cifar-resnet20"));
}

#[test]
fn a_name_that_is_nearly_right_is_told() {
    let told = |name: &str| NetSpec::preset(name, 10).unwrap_err().to_string();
    for (name, meant) in [
        ("resnet-50", "resnet50"),
        ("ResNet101", "resnet101"),
        ("resnet20", "cifar-resnet20"),
        ("mobilenetv2", "mobilenet_v2"),
        ("cifar_resnet56", "cifar-resnet56"),
        ("mobilnet_v2", "mobilenet_v2"),
    ] {
        assert!(told(name).ends_with(&format!("did you mean {meant}?")), "{}", told(name));
    }
    assert!(!told("vgg16").contains("did you mean"), "{}", told("vgg16"));
}

#[test]
fn timms_names_of_mobilenet_are_understood() {
    let first = network("mobilenet_v2", 1);
    let names = first.spec().timm_names();
    assert_eq!(names["features.0.0"], "conv_stem");
    assert_eq!(names["features.1.conv.0.0"], "blocks.0.0.conv_dw");
    assert_eq!(names["features.1.conv.2"], "blocks.0.0.bn2");
    assert_eq!(names["features.3.conv.1.1"], "blocks.1.1.bn2");
    assert_eq!(names["features.17.conv.2"], "blocks.6.0.conv_pwl");
    assert_eq!(names["features.18.1"], "bn2");
    assert_eq!(names["classifier.1"], "classifier");
    let renamed = |(name, tensor): (String, Tensor)| {
        let (layer, kind) = name.rsplit_once('.').unwrap();
        (format!("{}.{kind}", names[layer]), tensor)
    };
    let second = network("mobilenet_v2", 2);
    second.load(&file(contents(&first).into_iter().map(renamed).collect()), Classifier::Required).unwrap();
    assert_eq!(contents(&first), contents(&second));
    assert!(network("resnet18", 1).spec().timm_names().is_empty());
}

#[test]
fn a_description_cannot_smuggle_code_into_an_export() {
    let hostile =
        ["a\ndef forward(self, x: Tensor) -> Tensor:\n  return x\n#", "a b", "a.", "", "forward", "é", "a\"b"];
    for name in hostile {
        let mut spec = NetSpec::preset("cifar-resnet20", 2).unwrap();
        spec.blocks[0].name = name.into();
        let error = Network::build(&spec, Device::Cpu, 0).unwrap_err().to_string();
        assert!(error.contains("is no name of a layer") && !error.contains('\n'), "{error}");
        let mut spec = NetSpec::preset("cifar-resnet20", 2).unwrap();
        spec.head.name = name.into();
        spec.blocks[0].branch[0].norm = name.into();
        let error = spec.validate().unwrap_err().to_string();
        assert_eq!(error.matches("is no name of a layer").count(), 2, "{error}");
    }
    let mut spec = NetSpec::preset("cifar-resnet20", 2).unwrap();
    spec.blocks[1].name = spec.blocks[0].name.clone();
    let error = spec.validate().unwrap_err().to_string();
    assert!(error.contains("two layers are called 'layer1.0.conv1'"), "{error}");
    spec.name = "x\u{1b}[2J".into();
    let error = spec.validate().unwrap_err().to_string();
    assert!(error.contains("is no name of a network") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn files_that_are_no_weights_are_told_by_kind() {
    for (content, told) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..], "git lfs pull"),
        (b"\n  <!DOCTYPE html><html>", "the download went wrong"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0", "it is compressed"),
        (b"\x89HDF\r\n\x1a\n0000", "HDF5"),
        (b"{\"metadata\": {}, \"weight_map\": {}}", "safetensors.torch"),
        (b"no weights at all", "nor an intact safetensors file"),
    ] {
        let error = StateDict::parse(Path::new("w.pth"), content).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn what_pytorch_saves_in_other_ways_is_read_value_for_value() {
    let Some(pytorch) = PyTorch::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    assert!(pytorch.script("torch_save_samples.py").arg(folder.path()).status().unwrap().success());
    let read = |name: &str| StateDict::read(&folder.path().join(name));
    let expected = Tensor::from_slice(&[1.5f32, -2.0, 3.25]);
    for name in ["protocol1", "protocol3", "protocol4", "protocol5"] {
        for format in ["pth", "legacy.pth"] {
            let tensors = read(&format!("{name}.{format}")).unwrap().tensors;
            assert_eq!(tensors, [("w".to_owned(), expected.copy())], "{name}.{format}");
        }
    }
    assert_eq!(read("big-endian.pth").unwrap().tensors, [("w".to_owned(), expected.copy())]);
    // Of several state dicts each tensor's name tells where it lay.
    let names = |file: &StateDict| file.tensors.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let expected = ["model_ema.module.w", "model_ema.module.n_averaged", "model.w"];
    assert_eq!(names(&read("average.pth").unwrap()), expected);
    // By-products that people save too.
    assert_eq!(names(&read("by-products.pth").unwrap()), ["w"]);
    // The lines that messages advise work.
    for name in ["whole", "whole-inside", "script"] {
        let error = read(&format!("{name}.pth")).unwrap_err().to_string();
        let line = error.split_once("python3 -c \"").expect("it advises a line").1.trim_end_matches('"');
        let run = pytorch.command().args(["-c", line]).current_dir(folder.path()).output().unwrap();
        assert!(run.status.success(), "{line}: {}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(names(&read("weights.pth").unwrap()), ["weight", "bias"], "{line}");
        fs::remove_file(folder.path().join("weights.pth")).unwrap();
    }
}

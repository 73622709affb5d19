//! Weights files: what fits is loaded, everything else is named, and nothing in a file is executed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::state_dict::{StateDict, safetensors};
use arch::{Classifier, FreshClassifier, NetSpec, Network};
use gumbel_gates::GateKind;
use reference::{PyTorch, repository, skip};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn network(seed: u64) -> Network {
    let spec = NetSpec::preset("resnet18", 5).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    Network::build(&spec, Device::Cpu, seed).unwrap()
}

fn contents(network: &Network) -> Vec<(String, Tensor)> {
    network.tensors().iter().map(|entry| (entry.name.clone(), entry.tensor.detach().copy())).collect()
}

fn write(path: &Path, tensors: &[(String, Tensor)]) -> PathBuf {
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    fs::write(path, safetensors::to_bytes(tensors, ("about", "a test".into())).unwrap()).unwrap();
    path.to_owned()
}

#[test]
fn a_state_dict_survives_the_round_trip_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (network(1), network(2));
    let path = write(&folder.path().join("w.safetensors"), &contents(&first));
    let loaded = second.load(&StateDict::read(&path).unwrap(), Classifier::Required).unwrap();
    assert!(!loaded.fresh_gates && loaded.fresh_classifier.is_none());
    for (a, b) in contents(&first).into_iter().zip(contents(&second)) {
        assert_eq!(a, b);
    }
    assert_eq!(StateDict::read(&path).unwrap().metadata["about"], "a test");
    assert_eq!(fs::read(&path).unwrap(), fs::read(write(&folder.path().join("x"), &contents(&second))).unwrap());
}

#[test]
fn every_length_of_a_header_is_understood() {
    // The first byte of a safetensors file is part of a length: it may look like a pickle's or a
    // zip's.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w");
    let tensor = Tensor::ones([2], (Kind::Float, Device::Cpu));
    let mut first_bytes = std::collections::HashSet::new();
    for length in 0..300 {
        let text = safetensors::to_bytes([("t", &tensor)], ("about", "x".repeat(length))).unwrap();
        first_bytes.insert(text[0]);
        fs::write(&path, text).unwrap();
        assert_eq!(StateDict::read(&path).unwrap().tensors.len(), 1);
    }
    assert!(first_bytes.contains(&0x80) && first_bytes.len() == 32);
}

#[test]
fn half_precision_weights_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<_> = contents(&network(1)).into_iter().map(|(n, t)| (n, t.to_kind(Kind::BFloat16))).collect();
    let path = write(&folder.path().join("w.safetensors"), &tensors);
    let second = network(2);
    second.load(&StateDict::read(&path).unwrap(), Classifier::Required).unwrap();
    let weight = &second.tensors().get("conv1.weight").unwrap().tensor;
    assert_eq!(weight.kind(), Kind::Float);
    assert_eq!(*weight, tensors[0].1.to_kind(Kind::Float));
}

#[test]
fn gates_and_the_classifier_may_be_fresh_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let dense = Network::build(&NetSpec::preset("resnet18", 1000).unwrap(), Device::Cpu, 1).unwrap();
    let weights = StateDict::read(&write(&folder.path().join("w"), &contents(&dense))).unwrap();
    let own = network(2);
    let error = own.load(&weights, Classifier::Required).unwrap_err().to_string();
    assert!(error.contains("fc.weight (expected [5, 512], found [1000, 512])"), "{error}");
    let loaded = own.load(&weights, Classifier::MayBeFresh).unwrap();
    assert!(loaded.fresh_gates && loaded.fresh_classifier == Some(FreshClassifier::OtherClasses(1000)));
}

#[test]
fn every_tensor_that_does_not_fit_is_named_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = contents(&network(1));
    tensors.retain(|(name, _)| name != "layer1.0.bn1.bias" && name != "layer4.1.gate.fc2.bias");
    tensors.push(("layer9.weight".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu))));
    tensors[0].1 = Tensor::zeros([64, 3, 3, 3], (Kind::Float, Device::Cpu));
    let path = write(&folder.path().join("w.safetensors"), &tensors);
    let own = network(2);
    let before = contents(&own);
    let error = own.load(&StateDict::read(&path).unwrap(), Classifier::Required).unwrap_err().to_string();
    for part in [
        "w.safetensors does not fit resnet18",
        "2 tensors missing: layer1.0.bn1.bias, layer4.1.gate.fc2.bias",
        "1 tensor of another shape: conv1.weight (expected [64, 3, 7, 7], found [64, 3, 3, 3])",
        "1 tensor unknown: layer9.weight",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(before, contents(&own));
}

#[test]
fn a_file_cut_at_any_length_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let small = [("a".to_owned(), Tensor::randn([3, 5], (Kind::Float, Device::Cpu)))];
    let safe = fs::read(write(&folder.path().join("w.safetensors"), &small)).unwrap();
    let pickle = pickle_of_one_tensor(0, 4, &[2, 2]);
    for bytes in [safe, torch_file(&pickle, &[0; 16]), legacy_file(&pickle, &[0; 16])] {
        let path = folder.path().join("cut");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(StateDict::read(&path).unwrap().tensors.len(), 1);
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let error = StateDict::read(&path).unwrap_err().to_string();
            assert!(error.contains("cut is not a readable weights file"), "{error}");
        }
    }
    assert!(StateDict::read(&folder.path().join("absent")).unwrap_err().to_string().contains("cannot read"));
}

/// A file as torch.save writes it: one storage named "0".
fn torch_file(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("archive/data.pkl", pickle), ("archive/data/0", storage)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// {"w": tensor of `size`, row major, over a float storage of `elements`}.
fn pickle_of_one_tensor(offset: u8, elements: u8, size: &[u8]) -> Vec<u8> {
    let mut pickle =
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage".to_vec();
    pickle.extend(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK");
    pickle.extend([elements, b't', b'Q', b'K', offset, b'(']);
    pickle.extend(size.iter().flat_map(|&size| [b'K', size]));
    pickle.extend(b"t(");
    pickle.extend((0..size.len()).flat_map(|i| [b'K', size[i + 1..].iter().product::<u8>()]));
    pickle.extend(b"t\x89}tRs.");
    pickle
}

/// A file as torch.save wrote it before PyTorch 1.6: one storage named "0".
fn legacy_file(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00.".to_vec();
    file.extend(pickle);
    file.extend(b"\x80\x02]X\x01\x00\x00\x000a.");
    file.extend((storage.len() as i64 / 4).to_le_bytes());
    file.extend(storage);
    file
}

#[test]
fn both_formats_of_torch_save_give_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let values: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let pickle = pickle_of_one_tensor(0, 4, &[2, 2]);
    for bytes in [torch_file(&pickle, &values), legacy_file(&pickle, &values)] {
        fs::write(&path, bytes).unwrap();
        let tensors = StateDict::read(&path).unwrap().tensors;
        assert_eq!(tensors, [("w".to_owned(), Tensor::from_slice2(&[[1f32, 2.0], [3.0, 4.0]]))]);
    }
}

#[test]
fn a_state_dict_may_lie_in_a_dictionary_and_come_from_data_parallel_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    // {"epoch": 3, "state_dict": {"module.w": …}}
    let inner = pickle_of_one_tensor(0, 4, &[4]);
    let inner = inner[2..inner.len() - 1].to_vec();
    let safe = write(
        &folder.path().join("w.safetensors"),
        &[("module.w".into(), Tensor::ones([2], (Kind::Float, Device::Cpu)))],
    );
    assert_eq!(StateDict::read(&safe).unwrap().tensors[0].0, "w");
    let renamed = [&b"}X\x08\x00\x00\x00module.w"[..], &inner[7..]].concat();
    let pickle = [&b"\x80\x02}X\x05\x00\x00\x00epochK\x03sX\n\x00\x00\x00state_dict"[..], &renamed, b"s."].concat();
    for bytes in [torch_file(&pickle, &[0; 16]), legacy_file(&pickle, &[0; 16])] {
        fs::write(&path, bytes).unwrap();
        let tensors = StateDict::read(&path).unwrap().tensors;
        assert_eq!((tensors.len(), tensors[0].0.as_str()), (1, "w"));
    }
}

/// The files of scripts/torch_save_samples.py; `None` without a Python that has PyTorch.
fn torch_save_samples() -> Option<tempfile::TempDir> {
    let pytorch = PyTorch::find()?;
    let folder = tempfile::tempdir().unwrap();
    assert!(pytorch.script("torch_save_samples.py").arg(folder.path()).status().unwrap().success());
    Some(folder)
}

#[test]
fn what_torch_save_writes_is_read_value_for_value() {
    let Some(folder) = torch_save_samples() else { return };
    for format in ["pth", "legacy.pth"] {
        let read = |name: &str| StateDict::read(&folder.path().join(format!("{name}.{format}"))).unwrap().tensors;
        let views = read("views");
        let base = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 4]);
        assert_eq!(views.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["transposed", "steps", "whole"]);
        assert_eq!(views[0].1, base.tr());
        assert_eq!(views[1].1, base.slice(0, 1, None, 1).slice(1, None, None, 2));
        assert_eq!(views[2].1, base);
        let nested = read("nested");
        assert_eq!((nested[0].0.as_str(), nested[1].0.as_str(), nested[1].1.int64_value(&[])), ("w", "n", 7));
        assert_eq!((read("parameter").len(), read("module").len()), (1, 5));
        // What training scripts save beside the weights is passed over.
        assert_eq!(read("training").iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["weight", "bias"]);
        let empty = read("empty");
        assert_eq!((empty[0].1.size(), empty[1].1.double_value(&[])), (vec![0, 3], 2.5));
        for (name, kind) in [
            ("float16", Kind::Half),
            ("bfloat16", Kind::BFloat16),
            ("float64", Kind::Double),
            ("int64", Kind::Int64),
            ("int32", Kind::Int),
            ("uint8", Kind::Uint8),
            ("bool", Kind::Bool),
        ] {
            let tensors = read(name);
            assert_eq!((tensors.len(), tensors[0].1.kind(), tensors[0].1.size()), (1, kind, vec![3]), "{name}");
            assert_eq!(tensors[0].1.to_kind(Kind::Double).sum(Kind::Double).double_value(&[]), 3.0, "{name}");
        }
    }
}

#[test]
fn every_kind_of_number_and_layout_loads_into_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let first = network(1);
    for kind in [Kind::Half, Kind::BFloat16, Kind::Double] {
        let mut tensors: Vec<_> = contents(&first).into_iter().map(|(name, t)| (name, t.to_kind(kind))).collect();
        // PyTorch's counters, which files may or may not hold.
        tensors.push(("bn1.num_batches_tracked".into(), Tensor::from(17i64)));
        let path = write(&folder.path().join(format!("{kind:?}")), &tensors);
        let second = network(2);
        second.load(&StateDict::read(&path).unwrap(), Classifier::Required).unwrap();
        for ((name, expected), (_, found)) in tensors.iter().zip(contents(&second)) {
            assert_eq!(found, expected.to_kind(Kind::Float), "{name} as {kind:?}");
        }
    }
    // A view that is not contiguous is copied by value.
    let weights = StateDict {
        origin: "views".into(),
        tensors: contents(&first)
            .into_iter()
            .map(|(name, t)| {
                (name, if t.dim() == 4 { t.permute([3, 2, 1, 0]).contiguous().permute([3, 2, 1, 0]) } else { t })
            })
            .collect(),
        metadata: std::collections::HashMap::new(),
    };
    let second = network(2);
    second.load(&weights, Classifier::Required).unwrap();
    assert_eq!(contents(&second)[0].1, contents(&first)[0].1);
}

#[test]
fn the_published_cifar_weights_are_read() {
    let folder = repository().join("../shared/weights");
    for (arch, file) in [("cifar-resnet20", "resnet20-12fca82f.th"), ("cifar-resnet56", "resnet56-4bfd9763.th")] {
        let path = folder.join(file);
        if !path.exists() {
            skip(&format!("no {}", path.display()));
            continue;
        }
        let network = Network::build(&NetSpec::preset(arch, 10).unwrap(), Device::Cpu, 0).unwrap();
        assert!(!network.load(&StateDict::read(&path).unwrap(), Classifier::Required).unwrap().fresh_gates);
    }
}

fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    fs::write(&path, bytes).unwrap();
    StateDict::read(&path).unwrap_err().to_string()
}

#[test]
fn a_pickle_that_asks_for_a_call_is_refused_by_name() {
    let pickles: [&[u8]; 7] = [
        b"\x80\x02cos\nsystem\nX\x08\x00\x00\x00touch /x\x85R.",
        // Only the import; by STACK_GLOBAL, INST, OBJ and NEWOBJ; protocol 0; deep inside a state
        // dict.
        b"\x80\x02}X\x01\x00\x00\x00acos\nsystem\ns.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
        b"(S'touch /x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch /x'\no.",
        b"\x80\x02cos\nsystem\n)\x81.",
        b"(dp0\nS'a'\np1\n(lp2\ncos\nsystem\np3\n(S'x'\ntRp4\nas.",
    ];
    for pickle in pickles {
        let refused = refusal(&torch_file(pickle, &[]));
        assert!(refused.contains("it asks for os.system, which loading weights never needs"), "{refused}");
    }
    // Taking a harmless name's place does not help: nothing is called.
    let pickle = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00x\x85R.";
    assert!(refusal(&torch_file(pickle, &[])).contains("no dictionary of tensors"));
}

#[test]
fn damaged_pickles_are_errors_and_never_panics() {
    let pickle = pickle_of_one_tensor(0, 4, &[2, 2]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    for position in 0..pickle.len() {
        for value in [0, b'(', b'.', b't', b'u', b'e', b'Q', b'R', b'h', 0x86, 0x94, 0xff] {
            let mut damaged = pickle.clone();
            damaged[position] = value;
            fs::write(&path, torch_file(&damaged, &[0; 16])).unwrap();
            // Some changes are harmless; what matters is that every one comes back.
            if let Ok(read) = StateDict::read(&path) {
                assert!(read.tensors.len() <= 1);
            }
        }
    }
}

#[test]
fn tensors_that_reach_outside_their_storage_are_refused() {
    assert!(refusal(&torch_file(&pickle_of_one_tensor(0, 4, &[5]), &[0; 16])).contains("do not fit its storage"));
    assert!(refusal(&torch_file(&pickle_of_one_tensor(1, 4, &[4]), &[0; 16])).contains("do not fit its storage"));
    assert!(refusal(&torch_file(&pickle_of_one_tensor(0, 4, &[4]), &[0; 12])).contains("4 elements were promised"));
}

#[test]
fn pickles_that_cycle_repeat_or_claim_absurd_shapes_cost_no_memory() {
    // A dictionary that holds itself, and a list that does.
    assert!(refusal(&torch_file(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", &[])).contains("holds no tensors by name"));
    assert!(refusal(&torch_file(b"\x80\x02]q\x00h\x00a.", &[])).contains("no dictionary of tensors"));
    // The state dict inside itself: read once.
    let inside = b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s.";
    assert!(refusal(&torch_file(inside, &[])).contains("holds no tensors by name"));
    // 2^40 elements over a storage of 4, and a shape whose product overflows.
    assert!(refusal(&torch_file(&shaped_by(&[1 << 20, 1 << 20]), &[0; 16])).contains("do not fit"));
    assert!(refusal(&torch_file(&shaped_by(&[i64::MAX, i64::MAX]), &[0; 16])).contains("do not fit"));
    assert!(refusal(&torch_file(&shaped_by(&[1; 9]), &[0; 16])).contains("9 dimensions"));
    // One tensor of a megabyte under 200,000 names: views of one storage.
    let one = pickle_of_one_tensor(0, 4, &[2, 2]);
    let tensor = &one[9..one.len() - 2];
    let mut many = [b"\x80\x02".to_vec(), tensor.to_vec(), b"q\x00}(".to_vec()].concat();
    for name in 0..200_000u32 {
        many.extend(b"X\x06\x00\x00\x00");
        many.extend(format!("{name:06}").bytes());
        many.extend(b"h\x00");
    }
    many.extend(b"u.");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    fs::write(&path, torch_file(&many, &[0; 16])).unwrap();
    let tensors = StateDict::read(&path).unwrap().tensors;
    assert_eq!(tensors.len(), 200_000);
    assert_eq!(tensors[0].1.data_ptr(), tensors[199_999].1.data_ptr(), "they share their memory");
}

#[test]
fn records_that_overlap_hold_no_more_than_the_file() {
    // {"w": storage "0", "w": storage "1", …}: eight storages of 250 floats.
    let one = pickle_of_one_tensor(0, 250, &[250]);
    let key = one.windows(7).position(|part| part == b"X\x01\x00\x00\x000X").unwrap() + 5;
    let tensors = (b'0'..b'8').flat_map(|number| {
        let mut tensor = one[3..one.len() - 1].to_vec();
        tensor[key - 3] = number;
        tensor
    });
    let pickle: Vec<u8> = b"\x80\x02}".iter().copied().chain(tensors).chain([b'.']).collect();
    let file = torch_file(&pickle, &[0; 1000]);
    // The directory of the archive is made to name the one record eight times.
    let directory = file.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
    let end = file.windows(4).position(|part| part == b"PK\x05\x06").unwrap();
    let last = directory + file[directory..end].windows(14).rposition(|part| part == b"archive/data/0").unwrap() - 46;
    let mut crafted = file[..end].to_vec();
    for number in b'1'..b'8' {
        let mut entry = file[last..end].to_vec();
        entry[46 + 13] = number;
        crafted.extend(entry);
    }
    let length = crafted.len() - directory;
    let mut tail = file[end..].to_vec();
    (tail[8], tail[10]) = (9, 9);
    tail[12..16].copy_from_slice(&(length as u32).to_le_bytes());
    crafted.extend(tail);
    assert!(crafted.len() < 8 * 1000, "the storages together are larger than the file");
    assert!(refusal(&crafted).contains("together they are larger than the file"), "{}", refusal(&crafted));
}

/// The pickle of one tensor of that size, of eight-byte numbers, over a float storage of 4.
fn shaped_by(size: &[i64]) -> Vec<u8> {
    let small = pickle_of_one_tensor(0, 4, &[2]);
    let at = small.windows(4).position(|part| part == b"(K\x02t").unwrap();
    let numbers = |values: &[i64]| {
        let number = |value: &i64| [&[0x8a, 8][..], &value.to_le_bytes()].concat();
        [b"(".to_vec(), values.iter().flat_map(number).collect(), b"t".to_vec()].concat()
    };
    let rest = small[at + 4..].windows(2).position(|part| part == b"\x89}").unwrap();
    [&small[..at], &numbers(size), &numbers(&vec![1; size.len()]), &small[at + 4 + rest..]].concat()
}

#[test]
fn other_files_are_told_apart() {
    assert!(refusal(b"").contains("the file is empty"));
    assert!(refusal(b"\x80\x02}.").contains("a pickle that torch.save did not write"));
    assert!(refusal(b"hello, this is text").contains("nor an intact safetensors file"));
    assert!(refusal(&torch_file(b"\x80\x02]q\x00.", &[])).contains("no dictionary of tensors"));
    assert!(refusal(&torch_file(b"\x80\x02}X\x05\x00\x00\x00epochK\x03s.", &[])).contains("holds no tensors by name"));
    // Marks that point above the stack.
    assert!(refusal(&torch_file(b"\x80\x02NN(\x86t.", &[])).contains("mark"));
    assert!(refusal(&torch_file(&vec![b')'; 10_000_000], &[])).contains("far more than any state dict"));
    // Nesting a million deep must not exhaust the stack.
    let deep = [b"\x80\x02)".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(refusal(&torch_file(&deep, &[])).contains("no dictionary of tensors"));
}

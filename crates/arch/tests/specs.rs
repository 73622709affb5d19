//! Presets and specs as data, and where gates sit in them.

use arch::{Cost, Level, NetSpec, Network, Preset, Shortcut, Site, SiteKind};
use gumbel_gates::GateKind;
use tch::Device;

#[test]
fn filter_gates_sit_where_the_paper_puts_them() {
    let sites = |name: &str, level| {
        let preset = Preset::named(name).unwrap();
        let spec = preset.spec(10).with_filter_gates(GateKind::Independent, &preset.group_sizes(level), &SiteKind::ALL);
        let mut found = Vec::new();
        for (block, gates) in spec.gate_sites() {
            found.push((format!("{}.{}", block.name, gates.site.name()), gates.count(), gates.fixed_open()));
        }
        found
    };
    let has = |found: &[(String, usize, usize)], name: &str, gates: usize, open: usize| {
        assert!(found.contains(&(name.to_owned(), gates, open)), "{name} {gates} {open} is not in {found:?}");
    };
    // ResNet-50, low: 16 and 8 filters a gate in layer1, one group of each site open.
    let found = sites("resnet50", Level::Low);
    has(&found, "layer1.0.gate.input", 64 / 16 - 1, 16);
    has(&found, "layer1.0.gate.between1", 64 / 8 - 1, 8);
    has(&found, "layer1.0.gate.between2", 64 / 8 - 1, 8);
    has(&found, "layer1.0.gate.output", 256 / 16 - 1, 16);
    has(&found, "layer1.0.gate.projection", 256 / 16 - 1, 16);
    has(&found, "layer4.2.gate.output", 2048 / 128 - 1, 128);
    assert_eq!(found.len(), 16 * 4 + 4);
    has(&sites("resnet50", Level::Medium), "layer3.4.gate.output", 1024 / 16 - 2, 32);
    let found = sites("cifar-resnet20", Level::Low);
    has(&found, "layer2.1.gate.between1", 4, 0);
    assert_eq!(found.len(), 9 * 3);
    // MobileNetV2: the gates between sit behind the depthwise convolution; without a shortcut one
    // group stays open; the first block begins with its depthwise convolution, so its input has
    // none.
    let found = sites("mobilenet_v2", Level::Low);
    has(&found, "features.1.gate.between1", 32 / 16 - 1, 16);
    has(&found, "features.1.gate.output", 1, 8);
    has(&found, "features.3.gate.between2", 144 / 24, 0);
    has(&found, "features.4.gate.input", 24 / 8 - 1, 8);
    assert!(!found.iter().any(|(name, ..)| name == "features.1.gate.input" || name.starts_with("features.18")));
}

#[test]
fn specs_survive_serialization() {
    let spec = NetSpec::preset("resnet101", 17).unwrap().with_layer_gates(GateKind::Dependent, |block| block > 8);
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<NetSpec>(&text).unwrap(), spec);
}

#[test]
fn contradictions_in_a_spec_are_all_named() {
    let mut spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    spec.blocks[1].branch[0].inputs = 65;
    spec.blocks[2].shortcut = Shortcut::Identity;
    spec.blocks[3].shortcut = Shortcut::None;
    spec.blocks[4].branch[1].stride = 0;
    spec.blocks[5].gates = vec![arch::GateSite::filters(Site::Output, GateKind::Dependent, 256, 8, 0).unwrap(); 2];
    spec.blocks[6].gates[0].site = Site::Projection;
    spec.blocks[7].gates[0].site = Site::Between(2);
    spec.blocks[7].gates[0].groups = vec![arch::Groups { count: 2, channels: usize::MAX, gated: true }];
    spec.head.inputs = 7;
    let error = Network::build(&spec, Device::Cpu, 0).unwrap_err().to_string();
    for part in [
        "'layer1.1.conv1' reads 65",
        "the shortcut of block 'layer2.0' makes 64 channels for 128",
        "'layer2.1' has a layer gate",
        "'layer3.0.conv2'",
        "'layer3.1' has gates at its output twice",
        "'layer4.0' has gates at its projection whose groups do not cover its 512 channels",
        "'layer4.1' has gates at its between2, where none can be",
        "head",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    spec.blocks[1].branch[0].kernel = usize::MAX;
    assert!(Cost::of(&spec, 64, 64).is_err(), "absurd sizes are refused, not multiplied");
}

#[test]
fn unknown_presets_and_small_images_are_told() {
    assert!(NetSpec::preset("resnet51", 10).unwrap_err().to_string().contains("known are resnet18, resnet34"));
    let spec = NetSpec::preset("resnet18", 10).unwrap();
    assert!(Cost::of(&spec, 32, 32).is_ok());
    assert!(Cost::of(&spec, 0, 0).unwrap_err().to_string().contains("too small"));
}

//! Folders of images: drawing, listing and checking them.

use crate::calls::{failure, stdout, train};
use crate::support::path;
use std::fs;

#[test]
fn the_data_commands_draw_list_and_check() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set");
    let output = train(&["data", "synth", path(&set), "--train", "3", "--val", "1"]);
    assert!(stdout(&output).contains("drew 30 training and 10 validation images of 10 classes"));
    assert!(failure(&["data", "synth", path(&set)], 1).contains("exists; choose another folder"));
    let index: serde_json::Value =
        serde_json::from_slice(&train(&["data", "index", path(&set), "--json"]).stdout).unwrap();
    assert_eq!((&index["train"], &index["classes"][2]["class"]), (&30.into(), &"crescent".into()));
    let output = train(&["data", "check", path(&set)]);
    assert!(output.status.success() && stdout(&output).contains("40 images, 0 cannot be used"));
    fs::write(set.join("val/disc/0000-bad.jpg"), b"").unwrap();
    let output = train(&["data", "check", path(&set)]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("0000-bad.jpg: the file is empty"));
    // Balance and sizes at a glance: the bad file counts in its class.
    assert!(text.contains("validation: 11 images of 10 classes"), "{text}");
    assert!(text.contains("images per class: 1 (arrow) to 2 (disc), 1 in the median"), "{text}");
    assert!(text.contains("training: 30 images of 10 classes") && text.contains("shorter side, pixels"), "{text}");
    let output = train(&["data", "check", path(&set), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["images"], &json["splits"]["validation"]["bad"]), (&41.into(), &1.into()));
    assert_eq!(json["splits"]["training"]["images_per_class"], serde_json::json!(vec![3; 10]));
    // One split alone, as a folder of class folders.
    assert_eq!(train(&["data", "check", path(&set.join("train"))]).status.code(), Some(0));
}

//! What becomes of processes that run networks, and of files that they cannot read.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use runtime::{Array, Error, Model, Result, Runtime, Values, Worker, serve};
use std::path::Path;
use std::process::Command;

fn worker(script: &'static str) -> Result<Worker> {
    Worker::start(Runtime::TorchScript, 1, || {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    })
}

#[test]
fn a_process_that_ends_or_babbles_is_an_error_and_not_a_wait() {
    let ended = worker("exit 3").err().unwrap();
    assert!(matches!(&ended, Error::Ended { how, .. } if how.contains('3')), "{ended}");
    let killed = worker("kill -9 $$").err().unwrap().to_string();
    assert!(killed.contains("TorchScript ended without an answer (signal: 9"), "{killed}");
    let babble = worker("read line; echo hello").err().unwrap().to_string();
    assert!(babble.contains("answered what was not asked") && babble.contains("hello"), "{babble}");
    let absent = worker(r#"read line; echo '{"missing":{"why":"it is not here"}}'"#).err().unwrap().to_string();
    assert_eq!(absent, "TorchScript cannot be used: it is not here; make setup installs it");
}

#[test]
fn a_file_whose_name_is_not_unicode_reaches_the_process() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(std::ffi::OsStr::from_bytes(b"n\xff.pt"));
    std::fs::write(&file, "content").unwrap();
    // It answers what it was asked to load, which must be a file of the same ending.
    let script = r#"read ready; echo '{"done":0}'; read load; path=${load##*'"file":"'}; path=${path%%'"'*}
        case $path in *.pt) [ "$(cat "$path")" = content ] && echo '{"done":7}';; esac"#;
    assert_eq!(worker(script).unwrap().load(&file, false).unwrap(), 7);
}

/// Gives its images back, or refuses those of a single value.
struct Mirror(Option<Array>);

impl Model for Mirror {
    fn give(&mut self, images: &Array) -> Result<()> {
        if images.shape == [1] {
            return Err(Error::Refused { runtime: Runtime::OnnxRuntime, message: "too few".into() });
        }
        self.0 = Some(images.clone());
        Ok(())
    }

    fn run(&mut self) -> Result<Array> {
        Ok(self.0.clone().unwrap())
    }
}

#[test]
fn requests_are_answered_one_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("images"), [0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
    let layout = r#"{"shape":[2],"bytes":false}"#;
    let requests = [
        r#""ready""#.to_owned(),
        format!(r#"{{"load":{{"file":"{}","skip":false}}}}"#, at("network")),
        format!(r#"{{"give":{{"model":0,"file":"{}","layout":{layout}}}}}"#, at("images")),
        format!(r#"{{"give":{{"model":0,"file":"{}","layout":{{"shape":[1],"bytes":true}}}}}}"#, at("images")),
        r#"{"time":{"model":0,"warm":1,"timed":3}}"#.to_owned(),
        format!(r#"{{"run":{{"model":0,"file":"{}"}}}}"#, at("logits")),
        r#"{"operations":{"model":0,"runs":1}}"#.to_owned(),
        r#"{"time":{"model":5,"warm":0,"timed":1}}"#.to_owned(),
    ];
    let mut answers = Vec::new();
    let load = |_: &Path, _: bool| -> Result<Box<dyn Model>> { Ok(Box::new(Mirror(None))) };
    serve(requests.join("\n").as_bytes(), &mut answers, Ok(()), load).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines[..3], [r#"{"done":0}"#; 3]);
    assert_eq!(lines[3], r#"{"refused":{"message":"too few"}}"#);
    let seconds: serde_json::Value = serde_json::from_str(lines[4]).unwrap();
    assert_eq!(seconds["seconds"].as_array().unwrap().len(), 3);
    assert_eq!(lines[5], format!(r#"{{"written":{layout}}}"#));
    assert_eq!(std::fs::read(at("logits")).unwrap(), [0, 0, 128, 63, 0, 0, 0, 64]);
    assert_eq!(lines[6], r#"{"operations":[]}"#);
    assert!(lines[7].contains("there is no model 5"), "{}", lines[7]);
}

#[test]
fn arrays_are_tensors_and_back() {
    let array = Array { shape: vec![2, 3], values: Values::Floats((0..6_u8).map(f32::from).collect()) };
    assert_eq!(Array::of(&array.tensor().unwrap().tr().contiguous().tr()).unwrap(), array);
    let bytes = Array { shape: vec![2], values: Values::Bytes(vec![3, 255]) };
    assert_eq!(Array::of(&bytes.tensor().unwrap()).unwrap(), bytes);
    assert!(Array { shape: vec![4], ..array }.tensor().is_err());
}

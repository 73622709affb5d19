//! Where runtimes are installed on this machine.

use crate::error::{Error, Result};
use crate::kind::Runtime;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The environment that set-up made, which a link `.venv` names in a folder around this program. One
/// where a user happens to work is none of its business.
fn environments() -> Vec<PathBuf> {
    let program = env::current_exe().ok();
    let folders = program.iter().flat_map(|program| program.ancestors());
    folders.map(|folder| folder.join(".venv")).filter(|environment| environment.is_dir()).collect()
}

/// The Python of that environment.
pub(crate) fn python() -> Option<PathBuf> {
    environments().into_iter().map(|environment| environment.join("bin/python")).find(|python| python.is_file())
}

/// The library of ONNX Runtime: what ORT_DYLIB_PATH names, else that of the Python package, else
/// what the system has under its plain name.
pub(crate) fn onnx_runtime() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            let why = format!("ORT_DYLIB_PATH names {}, which is not a file", path.display());
            return Err(missing(Runtime::OnnxRuntime, why));
        }
        return Ok(path);
    }
    let packaged = environments().into_iter().find_map(|environment| {
        let versions = fs::read_dir(environment.join("lib")).ok()?;
        versions.flatten().find_map(|version| library_in(&version.path().join("site-packages/onnxruntime/capi")))
    });
    Ok(packaged.unwrap_or_else(|| PathBuf::from("libonnxruntime.so")))
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?;
    files.flatten().map(|file| file.path()).find(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libonnxruntime.so")
    })
}

/// That a runtime is not there.
pub(crate) fn missing(runtime: Runtime, why: String) -> Error {
    let advice = match runtime {
        Runtime::OnnxRuntime => "make setup installs it, and ORT_DYLIB_PATH names a library of your own",
        _ => "make setup installs it",
    };
    Error::Missing { runtime, why, advice }
}

//! Compiles the C++ of this crate against the libtorch that tch uses.

#![allow(clippy::print_stdout)] // how a build script talks to cargo

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), String> {
    for file in ["fused.cpp", "guarded.h", "script.cpp", "shim.cpp"] {
        println!("cargo:rerun-if-changed=src/{file}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = env::var_os("LIBTORCH").map(PathBuf::from);
    let libtorch = libtorch.ok_or("LIBTORCH is not set; run `make setup` and cargo inside the project's folder")?;
    let include = libtorch.join("include");
    if !include.join("torch").is_dir() {
        return Err(format!("no libtorch at {}; run `make setup`, or set LIBTORCH to your own", libtorch.display()));
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false) // libtorch's own headers warn
        .flag_if_supported("-fno-trapping-math") // else comparisons are not vectorised
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/shim.cpp")
        .file("src/script.cpp")
        .file("src/fused.cpp")
        .compile("torch_ext_shim");
    Ok(())
}

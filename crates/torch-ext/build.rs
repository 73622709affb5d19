//! Compiles shim.cpp against the libtorch that tch uses.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        eprintln!("LIBTORCH is not set and .cargo/config.toml was not read; run `make setup` in the project's folder");
        return ExitCode::FAILURE;
    };
    let include = libtorch.join("include");
    if !include.join("torch").is_dir() {
        eprintln!("no libtorch at {}; run `make setup`, or set LIBTORCH to your own", libtorch.display());
        return ExitCode::FAILURE;
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false) // libtorch's own headers warn
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/shim.cpp")
        .compile("torch_ext_shim");
    ExitCode::SUCCESS
}

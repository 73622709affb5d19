#!/usr/bin/env bash
# Fuzzes the readers of weights files with libFuzzer, on the stable toolchain.
#
#   scripts/fuzz.sh [SECONDS]   default 600; the corpus stays in fuzz/corpus, findings in fuzz/artifacts
#
# What cargo-fuzz would pass to the compiler is passed here; `cargo +nightly fuzz run state_dict` in
# fuzz/ works as well.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
scripts/setup.sh
mkdir -p fuzz/corpus/state_dict fuzz/artifacts/state_dict
if [ -x .venv/bin/python ]; then .venv/bin/python scripts/torch_save_samples.py fuzz/corpus/state_dict; fi

host=$(rustc -vV | awk '/^host:/ { print $2 }')
flags="-Cpasses=sancov-module --cfg fuzzing"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
done
# With a target named, build scripts and procedural macros keep their ordinary flags.
env -u LIBTORCH -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="$flags -Ccodegen-units=1" \
    cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target-dir fuzz/target --target "$host"
LD_LIBRARY_PATH=.libtorch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} OMP_NUM_THREADS=1 \
    "fuzz/target/$host/release/state_dict" fuzz/corpus/state_dict \
    -artifact_prefix=fuzz/artifacts/state_dict/ -max_total_time="$seconds" \
    -max_len=65536 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1

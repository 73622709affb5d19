#!/usr/bin/env bash
# Draws and damages JPEG files, decodes each here and with Pillow, and prints what came of them.
#
#   scripts/differential.sh [FILES [SEED]]   default 10000 files of each of two tests, seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
export DIFFERENTIAL=${1:-10000} DIFFERENTIAL_SEED=${2:-1}
cargo test --quiet --release -p data --test differential -- --nocapture --test-threads=1

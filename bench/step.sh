#!/usr/bin/env bash
# Training steps in turn with PyTorch: images per second (median of the steps of each turn) and peak
# memory, one line per turn.
#
#   bench/step.sh [ROUNDS]        turns of each (default 3); BATCHES="16 64" and ARCHS="resnet50 mobilenet_v2" choose what is timed
#   DEVICE=cuda PRECISION=bfloat16 bench/step.sh
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
steps=${STEPS:-5}
device=${DEVICE:-cpu}
precision=${PRECISION:-float32}
export LD_LIBRARY_PATH=$PWD/.libtorch/lib

field() { # field EXPRESSION: of the JSON on stdin
    .venv/bin/python -c "import json, sys; found = json.load(sys.stdin); print($1)"
}
line() { # line ARCH BATCH GATES WHO IMAGES_PER_SECOND MEMORY
    printf '%-14s %5s  %-7s %-22s %8.2f images/s  %6.2f GB\n' "$@"
}
ours() { # ours ARCH BATCH GATES: filter gates as the peer has them
    local gates=$3 more=()
    [ "$gates" != filter ] || { gates=8; more=(--set 'gates.sites=["between"]' --set 'gates.kind="independent"'); }
    target/release/train bench step --arch "$1" --gates "$gates" --batch "$2" --rounds "$steps" --device "$device" --json \
        --set gates.loss=batch --set "train.precision=$precision" "${more[@]}" |
        field "'{} {}'.format(found['variants'][0]['images_per_second'], found['peak_memory_bytes'] / 1e9)"
}
theirs() { # theirs ARCH BATCH GATES [OPTION...]
    local arch=$1 batch=$2 gates=$3
    shift 3
    .venv/bin/python bench/peers/step.py --arch "$arch" --gates "$gates" --batch "$batch" --rounds "$steps" --device "$device" \
        --precision "$precision" "$@" | field "'{} {}'.format(found['images_per_second'], found['peak_memory_bytes'] / 1e9)"
}

for arch in ${ARCHS:-resnet50 mobilenet_v2}; do
    for batch in ${BATCHES:-16 64}; do
        for _ in $(seq "$rounds"); do
            for gates in ${GATES:-none layer filter}; do
                # On lines of their own, so that a failure ends the script.
                found=$(ours "$arch" "$batch" "$gates")
                line "$arch" "$batch" "$gates" gumbel-gates $found
                found=$(theirs "$arch" "$batch" "$gates")
                line "$arch" "$batch" "$gates" PyTorch $found
            done
            found=$(theirs "$arch" "$batch" layer --layout nchw --optimizer loop)
            line "$arch" "$batch" layer "PyTorch, its defaults" $found
        done
    done
done

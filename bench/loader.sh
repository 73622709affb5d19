#!/usr/bin/env bash
# Images per second as whole batches in turn with torchvision (Pillow, and its own decoder) and
# DALI, one line per turn.
#
#   bench/loader.sh DIR [TURNS]     DIR is a folder of class folders; turns of each (default 3)
#   DALI_PYTHON=FILE                a Python that has nvidia-dali (without it DALI is left out); THREADS=N, by default one per core
set -euo pipefail
folder=$(realpath "${1:?usage: bench/loader.sh DIR [TURNS]}")
cd "$(dirname "$0")/.."

turns=${2:-3}
threads=${THREADS:-$(nproc)}
export LD_LIBRARY_PATH=$PWD/.libtorch/lib

line() { # line SPLIT WHO IMAGES_PER_SECOND
    printf '%-12s %-22s %8.0f images/s\n' "$@"
}
theirs() { # theirs PYTHON PEER SPLIT
    "$1" bench/peers/loader.py "$2" "$folder" --split "$3" --threads "$threads" |
        .venv/bin/python -c "import json, sys; print(json.load(sys.stdin)['images_per_second'])"
}

for _ in $(seq "$turns"); do
    found=$(target/release/train bench loader "$folder" --threads "$threads" --rounds 3 --json |
        .venv/bin/python -c "import json, sys; print(*(v['images_per_second'] for v in json.load(sys.stdin)['variants']))")
    read -r training evaluation decoding <<<"$found"
    line "" "decoding alone" "$decoding"
    for split in training evaluation; do
        line "$split" gumbel-gates "${!split}"
        for peer in torchvision-pillow torchvision; do
            found=$(theirs .venv/bin/python "$peer" "$split")
            line "$split" "$peer" "$found"
        done
        [ -z "${DALI_PYTHON:-}" ] || {
            found=$(theirs "$DALI_PYTHON" dali "$split")
            line "$split" DALI "$found"
        }
    done
done

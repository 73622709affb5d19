#!/usr/bin/env bash
# Checks on a machine with an NVIDIA GPU what the tests check on the CPU, and times training against
# PyTorch. A table at the end.
#
#   scripts/check_cuda.sh         needs what `make build` leaves (target/release/train, .libtorch, .venv); no network, no compiler
#   DEVICE=cuda:1                 another GPU; DEVICE=cpu tries this script itself, without float16, which would take hours there
#   STEPS=9 BATCH=64              timed steps, and images in each
#
# Checked: the same answers as on the CPU; training in float32, bfloat16 and float16; a run that is
# interrupted and resumed; the time of gated training steps beside PyTorch, eager and compiled.
# Exits with 1 if something is wrong, or if there was nothing to check on.
set -uo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cuda}
steps=${STEPS:-9}
batch=${BATCH:-64}
train=target/release/train
python=.venv/bin/python
export LD_LIBRARY_PATH=$PWD/.libtorch/lib

for needed in "$train" "$python" .libtorch; do
    if [ ! -e "$needed" ]; then
        echo "check_cuda: $needed is missing; run make build first (nothing was checked)" >&2
        exit 1
    fi
done
if ! "$python" -c "import sys, torch; sys.exit('$device' != 'cpu' and not torch.cuda.is_available())"; then
    echo "check_cuda: no CUDA device was found: nothing was checked" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table=$work/table
failed=0
row() { # row RESULT WHAT FOUND
    printf '%-8s%-56s%s\n' "$@" | tee -a "$table"
    [ "$1" != FAILED ] || failed=1
}
# compare WHAT EXPRESSION: a Python expression over `files`, JSON by name, that gives (whether it
# holds, what was found)
compare() {
    local found
    found=$("$python" - "$work" "$2" <<'PYTHON'
import json, pathlib, sys
files = {path.stem: json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.json") if path.stat().st_size}
losses = lambda name: [json.loads(line)["train"]["loss"] for line in open(f"{sys.argv[1]}/{name}/metrics.jsonl") if '"event":"epoch"' in line]
holds, found = eval(sys.argv[2])
print("ok" if holds else "FAILED", found, sep="\t")
PYTHON
    ) || found=$'FAILED\tit could not be measured'
    row "${found%%$'\t'*}" "$1" "${found#*$'\t'}"
}
fit() { # fit NAME OPTION...: two epochs of a small gated ResNet-50 on drawn images
    local name=$1
    shift
    "$train" fit --config configs/resnet50-aig-sample.toml --data "$work/images" --out "$work/$name" --device "$device" \
        --set train.epochs=2 --set train.log_every=10 "$@" >"$work/$name.log" 2>&1 || tail -n 5 "$work/$name.log" >&2
}

echo "drawing images"
"$train" data synth "$work/images" >/dev/null 2>&1 || { echo "check_cuda: the images could not be drawn" >&2; exit 1; }

precisions=(float32 bfloat16 float16)
[ "$device" != cpu ] || unset 'precisions[2]'
for precision in "${precisions[@]}"; do
    fit "$precision" --set "train.precision=$precision" --set train.tf32=false
    compare "trains in $precision" \
        "(lambda found: (len(found) == 2 and 0 < found[1] < found[0], 'loss of two epochs: {:.3f}, {:.3f}'.format(*found)))(losses('$precision'))"
done
for precision in "${precisions[@]:1}"; do
    # From the same start, so few steps end apart by chance; what 16 bits must not do is learn less.
    compare "$precision learns as much as float32" \
        "(lambda a, b: (b[0] - b[1] > 0.6 * (a[0] - a[1]), 'loss down by {:.3f} and {:.3f}'.format(a[0] - a[1], b[0] - b[1])))(losses('float32'), losses('$precision'))"
done

for where in cpu "$device"; do
    "$train" eval --checkpoint "$work/float32/checkpoints/last.safetensors" --data "$work/images" --device "$where" --json \
        >"$work/eval-${where%%:*}.json" 2>>"$work/eval.log" || tail -n 5 "$work/eval.log" >&2
done
compare "answers as on the CPU, in float32" \
    "(lambda a, b: (abs(a - b) < 1e-3 * a, 'cross entropy {:.6f} and {:.6f}'.format(a, b)))(*(files['eval-' + name]['cross_entropy'] for name in ('cpu', '${device%%:*}')))"

# Interrupted in its second epoch.
timeout --signal=INT --kill-after=120 1200 bash -c "
    $train fit --config configs/resnet50-aig-sample.toml --data '$work/images' --out '$work/resumed' --device '$device' \
        --set train.epochs=2 --set train.log_every=10 --set train.tf32=false >'$work/resumed.log' 2>&1 &
    run=\$!
    while kill -0 \$run 2>/dev/null && ! [ -e '$work/resumed/checkpoints/last.safetensors' ]; do sleep 0.1; done
    kill -INT \$run 2>/dev/null
    wait \$run"
interrupted=$?
"$train" fit --resume --out "$work/resumed" --device "$device" >>"$work/resumed.log" 2>&1 || tail -n 5 "$work/resumed.log" >&2
compare "goes on after an interrupt" \
    "(lambda a, b: ($interrupted == 130 and len(b) == 2 and abs(a[1] - b[1]) < 0.05 * a[1], '{:.4f}, without one {:.4f}'.format(b[1], a[1])))(losses('float32'), losses('resumed'))"

half=bfloat16
[ "$device" != cpu ] || half=float32
ours() { # ours ARCH GATES
    "$train" bench step --arch "$1" --gates "$2" --batch "$batch" --rounds "$steps" --device "$device" --json \
        --set gates.loss=batch --set "train.precision=$half" >"$work/ours.json" 2>>"$work/bench.log"
}
theirs() { # theirs NAME ARCH GATES OPTION...
    local name=$1 arch=$2 gates=$3
    shift 3
    "$python" bench/peers/step.py --arch "$arch" --gates "$gates" --batch "$batch" --rounds "$steps" --device "$device" \
        --precision "$half" "$@" >"$work/$name.json" 2>>"$work/bench.log"
}
for arch in resnet50 mobilenet_v2; do
    for gates in none layer; do
        rm -f "$work"/{ours,eager,compiled}.json
        ours "$arch" "$gates"
        theirs eager "$arch" "$gates"
        theirs compiled "$arch" "$gates" --compile
        compare "$arch, gates $gates, $half, $batch images a step" \
            "(True, '{:.1f} images/s and {:.2f} GB; PyTorch eager {:.1f} and {:.2f}, compiled {}'.format(files['ours']['variants'][0]['images_per_second'], files['ours']['peak_memory_bytes'] / 1e9, files['eager']['images_per_second'], files['eager']['peak_memory_bytes'] / 1e9, '{images_per_second:.1f}'.format(**files['compiled']) if 'compiled' in files else 'failed'))"
    done
done

echo
[ "$device" = cpu ] || nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
cat "$table"
[ "$failed" = 0 ] || { echo "check_cuda: something is wrong; see the rows that FAILED" >&2; exit 1; }

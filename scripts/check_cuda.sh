#!/usr/bin/env bash
# Checks on a machine with an NVIDIA GPU what the tests check on the CPU, and times training against
# PyTorch, in about six minutes. Rows are printed as they come.
#
#   scripts/check_cuda.sh         needs what `make build` leaves (target/release/train, .libtorch, .venv); no network, no compiler
#   LOGS=DIR                      keep the output of every stage there, and the table
#   DEVICE=cuda:1                 another GPU; DEVICE=cpu tries this script itself, with small batches and no 16 bits
#
# 1. The card, libtorch, and three steps of a small network; without them nothing else is tried.
# 2. Parity: five training steps with layer and with filter gates, the loss of each on the CPU and
#    on the GPU; in float32 without TF32, and the first step in bfloat16 and float16.
# 3. float16 with everything on, interrupted and resumed, as close as two equal runs are.
# 4. Images per second and memory beside PyTorch: ResNet-50 and MobileNetV2, eager, then compiled.
# Exits with 1 if something is wrong, or if there was nothing to check on.
set -uo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cuda}
train=target/release/train
python=.venv/bin/python
for needed in "$train" "$python" .libtorch; do
    if [ ! -e "$needed" ]; then
        echo "check_cuda: $needed is missing; run make build first (nothing was checked)" >&2
        exit 1
    fi
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$PWD/.libtorch/lib
# CUDA's own libraries, where they are wheels beside torch.
for wheel in .libtorch/../nvidia/*/lib; do
    [ ! -d "$wheel" ] || LD_LIBRARY_PATH+=:$(cd "$wheel" && pwd)
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=${LOGS:-$work/logs}
mkdir -p "$logs"
: >"$logs/table"
failed=0
started=$SECONDS
row() { # row RESULT WHAT FOUND
    printf '%-8s%-52s%s\n' "$@" | tee -a "$logs/table"
    [ "$1" != FAILED ] || failed=1
}
run() { # run SECONDS NAME COMMAND...: stdout in $work/NAME.json, stderr in $logs/NAME.log
    local limit=$1 name=$2 status
    shift 2
    timeout --kill-after=10 "$limit" "$@" >"$work/$name.json" 2>"$logs/$name.log"
    status=$?
    [ "$status" = 0 ] || rm -f "$work/$name.json"
    [ "$status" != 124 ] || echo "stopped after $limit s" >>"$logs/$name.log"
    return "$status"
}
reason() { # reason NAME...: the last line of the first log that has one
    local name
    for name in "$@"; do
        if [ -s "$logs/$name.log" ]; then
            tail -n 1 "$logs/$name.log"
            return
        fi
    done
    echo "no reason was given"
}
# judge WHAT EXPRESSION NAME...: a Python expression that gives (whether it holds, what was found);
# NAMEs are the stages it looks at
judge() {
    local what=$1 expression=$2 found
    shift 2
    found=$("$python" - "$work" "$expression" 2>>"$logs/judge.log" <<'PYTHON'
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
def steps(name):
    """The loss of every step of a run."""
    lines = [json.loads(line) for line in open(work / name / "metrics.jsonl")]
    return [line["train"]["loss"] for line in lines if line["event"] == "step"]
def result(name):
    """The objects a stage printed, one a line or one in all."""
    text = (work / f"{name}.json").read_text()
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
def off(a, b):
    return abs(a - b) / max(abs(a), 1e-12)
def gigabytes(number):
    return "?" if number is None else f"{number / 1e9:.2f}"
holds, found = eval(sys.argv[2])
print("ok" if holds else "FAILED", found, sep="\t")
PYTHON
    ) || found=$'FAILED\t'$(reason "$@" judge)
    row "${found%%$'\t'*}" "$what" "${found#*$'\t'}"
}

# 1. Is there anything to check on?
"$python" -c "import torch; print('PyTorch', torch.__version__, 'CUDA', torch.version.cuda)" 2>&1 | tee "$logs/torch.log"
if [ "$device" != cpu ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | tee "$logs/card.log"
fi
if ! run 60 images "$train" data synth "$work/images" --train 8 --val 2; then
    echo "check_cuda: the images could not be drawn: $(reason images)" >&2
    exit 1
fi
fit() { # fit SECONDS NAME DEVICE OPTION...: a run on 80 drawn images, one line of metrics a step
    local limit=$1 name=$2 where=$3
    shift 3
    rm -rf "${work:?}/$name"
    run "$limit" "$name" "$train" fit --config configs/resnet50-aig-sample.toml --data "$work/images" --out "$work/$name" \
        --device "$where" --set train.epochs=1 --set train.batch_size=16 --set train.log_every=1 --set train.tf32=false "$@"
}
if ! fit 60 first "$device" --set network.arch=cifar-resnet20 --set data.image_size=32 --set data.resize=32 \
    --set train.batch_size=24; then
    row FAILED "three steps of a small network" "$(reason first)"
    echo "check_cuda: nothing else was tried; all of $logs/first.log:" >&2
    cat "$logs/first.log" >&2
    exit 1
fi
row ok "three steps of a small network" "after $((SECONDS - started)) s"

# 2. The same losses as on the CPU: noise, order and augmentation are functions of the seed.
precisions=(bfloat16 float16)
[ "$device" != cpu ] || precisions=()
filter=(--set gates.granularity=low --set 'gates.sites=["between"]' --set gates.loss=batch)
for gates in layer filter; do
    more=()
    [ "$gates" = layer ] || more=("${filter[@]}")
    fit 90 "$gates-cpu" cpu "${more[@]}"
    fit 60 "$gates-float32" "$device" "${more[@]}"
    judge "$gates gates: losses as on the CPU" \
        "(lambda a, b: (len(a) == len(b) == 5 and off(a[0], b[0]) <= 1e-5 and off(a[4], b[4]) <= 1e-2, 'off by {:.1e} in the first step, {:.1e} in the fifth'.format(off(a[0], b[0]), off(a[4], b[4]))))(steps('$gates-cpu'), steps('$gates-float32'))" \
        "$gates-float32" "$gates-cpu"
    for precision in "${precisions[@]}"; do
        fit 60 "$gates-$precision" "$device" "${more[@]}" --set "train.precision=$precision"
        judge "$gates gates: $precision" \
            "(lambda a, b: (off(a[0], b[0]) <= 0.02, 'off by {:.1e} in the first step'.format(off(a[0], b[0]))))(steps('$gates-cpu'), steps('$gates-$precision'))" \
            "$gates-$precision"
    done
done

# 3. Everything on, interrupted in the middle and resumed.
half=float16
[ "$device" != cpu ] || half=float32
everything=(--set "train.precision=$half" --set train.average_decay=0.9 --set optimizer.clip_norm=1 --set data.mixup=0.2
    --set data.erase=0.25 --set train.accumulate=2 --set train.max_bad_steps=9 --set train.epochs=3 --set checkpoints.every_steps=1)
for name in once again; do
    fit 90 "$name" "$device" "${everything[@]}"
done
interrupted() {
    timeout --kill-after=10 90 "$train" fit --config configs/resnet50-aig-sample.toml --data "$work/images" --out "$work/resumed" \
        --device "$device" --set train.batch_size=16 --set train.log_every=1 --set train.tf32=false "${everything[@]}" \
        >/dev/null 2>"$logs/resumed.log" &
    local run=$! tries=0
    # After the sixth of fifteen steps.
    until grep -qs '"step":6,' "$work/resumed/metrics.jsonl" || ! kill -0 "$run" 2>/dev/null || [ "$tries" -gt 900 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -INT "$run" 2>/dev/null
    wait "$run"
    [ $? = 130 ] || return 1
    timeout --kill-after=10 90 "$train" fit --resume --out "$work/resumed" --device "$device" >/dev/null 2>>"$logs/resumed.log"
}
interrupted || row FAILED "interrupted and resumed" "$(reason resumed)"
judge "$half with everything on, interrupted and resumed" \
    "(lambda a, b, c: (len(a) == len(c) == 15 and off(a[-1], c[-1]) <= max(3 * off(a[-1], b[-1]), 1e-4), 'last loss off by {:.1e}, two equal runs by {:.1e}'.format(off(a[-1], c[-1]), off(a[-1], b[-1]))))(steps('once'), steps('again'), steps('resumed'))" \
    resumed again once

# 4. Pace and memory. "host" is when the host had asked for everything.
half=bfloat16
rounds=30
batches=(256 64)
if [ "$device" = cpu ]; then
    half=float32
    rounds=1
    batches=(4)
fi
ours() { # ours SECONDS NAME ARCH GATES BATCH ROUNDS
    run "$1" "$2" "$train" bench step --arch "$3" --gates "$4" --batch "$5" --rounds "$6" --device "$device" --json \
        --set gates.loss=batch --set "train.precision=$half"
}
theirs() { # theirs SECONDS NAME ARCH GATES BATCH OPTION...
    local limit=$1 name=$2 arch=$3 gates=$4 batch=$5
    shift 5
    run "$limit" "$name" "$python" bench/peers/step.py --arch "$arch" --gates "$gates" --batch "$batch" --rounds "$rounds" \
        --device "$device" --precision "$half" "$@"
}
paces() { # paces NAME: a row for each variant of ours
    judge "$2" "(True, '; '.join('{gates} {images_per_second:.0f} images/s (host {share:.0%})'.format(share=v['host_seconds'] / v['median_seconds'], **v) for v in result('$1')[0]['variants']) + '; {} GB'.format(gigabytes(result('$1')[0]['peak_memory_bytes'])))" "$1"
}
peers() { # peers NAME WHAT
    judge "$2" "(True, '; '.join('{gates} {images_per_second:.0f} images/s, {memory} GB'.format(memory=gigabytes(found['peak_memory_bytes']), **found) for found in result('$1')))" "$1"
}
for batch in "${batches[@]}"; do
    ours 60 "ours-$batch" resnet50 none,layer,low "$batch" "$rounds"
    paces "ours-$batch" "ResNet-50, $half, $batch images a step"
done
largest=${batches[0]}
ours 30 memory resnet50 layer "$largest" 5
paces memory "the same, layer gates alone"
theirs 60 eager resnet50 none,layer,filter "$largest"
peers eager "PyTorch, eager, $largest images"
ours 40 mobile mobilenet_v2 none,layer "$largest" "$((rounds > 10 ? 10 : rounds))"
paces mobile "MobileNetV2, $half, $largest images a step"
theirs 40 mobile-eager mobilenet_v2 none,layer "$largest"
peers mobile-eager "PyTorch, eager, $largest images"
if [ "$device" != cpu ]; then
    # Last, for it may take long to compile.
    theirs 100 compiled resnet50 layer "$largest" --compile
    peers compiled "PyTorch, compiled, ResNet-50"
    judge "pace beside PyTorch, ResNet-50 with layer gates" \
        "(lambda own, eager, compiled: (True, '{:.2f} of eager, {:.2f} of compiled'.format(own / eager, own / compiled)))(*(next(v['images_per_second'] for v in found if v['gates'] == 'layer') for found in (result('ours-$largest')[0]['variants'], result('eager'), result('compiled'))))" \
        compiled eager "ours-$largest"
fi

echo
cat "$logs/card.log" 2>/dev/null
echo "$((SECONDS - started)) s in all${LOGS:+; the output of every stage is in $LOGS}"
[ "$failed" = 0 ] || { echo "check_cuda: something is wrong; see the rows that FAILED" >&2; exit 1; }

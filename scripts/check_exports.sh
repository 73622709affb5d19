#!/usr/bin/env bash
# Exports every preset with every granularity and kind of gates in every form, runs the files in
# libtorch, ONNX Runtime and OpenVINO, and prints the largest difference of a logit by preset.
#
#   scripts/check_exports.sh [PRESET...]
#
# Exits with 1 if one is larger than 1e-4 of the largest logit. Images of which a gate decides
# otherwise than in this program, which happens where a margin is about zero, are counted apart; more
# than a tenth of them are a failure too.
set -euo pipefail
cd "$(dirname "$0")/.."
presets=${*:-resnet18 resnet34 resnet50 resnet101 resnet152 mobilenet_v2 mobilenet_v2_x0.5 cifar-resnet20 cifar-resnet32 cifar-resnet44 cifar-resnet56 cifar-resnet110}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
env -u RUSTFLAGS -u LIBTORCH CARGO_TARGET_DIR=target cargo build --release --quiet -p arch --example every_export
printf '%-18s %5s  %-11s %-12s %-8s  %s\n' preset files TorchScript 'ONNX Runtime' OpenVINO 'images of other decisions'
status=0
for preset in $presets; do
    rm -rf "${folder:?}"/*
    target/release/examples/every_export "$preset" "$folder" >"$folder/scripts.json"
    .venv/bin/python scripts/onnx_differences.py "$folder" >"$folder/onnx.json"
    .venv/bin/python - "$preset" "$folder" <<'PYTHON' || status=1
import json, sys
preset, folder = sys.argv[1:]
scripts = json.load(open(f"{folder}/scripts.json"))
results = json.load(open(f"{folder}/onnx.json"))
same = [result for result in results.values() if not result.get("gates")]
largest = [max(scripts.values()), *(max((r.get(of, 0) for r in same), default=0) for of in ("logits", "openvino"))]
print(f"{preset:<18} {len(scripts):>5}  {largest[0]:<11.1e} {largest[1]:<12.1e} {largest[2]:<8.1e}  {len(results) - len(same)} of {len(results)}", flush=True)
for name, value in [*scripts.items(), *((name, max(r["logits"], r.get("openvino", 0))) for name, r in results.items())]:
    if not value < 1e-4:
        print(f"  {name}: {value:.1e}, {results.get(name, '')}", flush=True)
# One by one: a comparison with NaN is false.
right = all(r["logits"] < 1e-4 and r.get("openvino", 0) < 1e-4 for r in same) and all(v < 1e-4 for v in scripts.values())
sys.exit(not (right and len(same) >= 0.9 * len(results)))
PYTHON
done
exit $status

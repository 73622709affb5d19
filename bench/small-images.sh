#!/usr/bin/env bash
# usage: bench/small-images.sh DIR [ARGS of train fit]
# Trains bench/small-images.toml on DIR and prints top-1, open rate, MACs and images per second, as
# one JSON object.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
data=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
make --no-print-directory build
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
target/release/train fit --config bench/small-images.toml --data "$data" --out "$folder/run" --json "$@" > "$folder/result.json"
python3 - "$folder" <<'PYTHON'
import json, statistics, sys
result = json.load(open(f"{sys.argv[1]}/result.json"))
steps = [line for line in map(json.loads, open(f"{sys.argv[1]}/run/metrics.jsonl")) if line["event"] == "step"]
rates = [step["images_per_second"] for step in steps]
print(json.dumps({
    "top1": result["top1"], "top5": result["top5"], "open_rate": result["open_rate"],
    "macs_share": result["macs"] / result["macs_dense"], "seconds": result["seconds"],
    "images_per_second": {"median": statistics.median(rates), "min": min(rates), "max": max(rates)},
}, indent=2))
PYTHON

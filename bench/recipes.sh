#!/usr/bin/env bash
# Trains recipes and keeps what came of each as one JSON line: the command, the commit, the seed,
# top-1 after the last epoch, MACs, training MACs and minutes.
#
#   bench/recipes.sh DATA WEIGHTS RESULTS.jsonl [NAME...]
#       those of bench/recipes.txt, or the named ones; SEEDS="0 1" are trained one after the other.
#       A run that is in RESULTS.jsonl already is not done again, and one that was stopped goes on.
#       Runs are kept beside RESULTS.jsonl.
#   bench/recipes.sh heldout DATA DIR
#       a data set to choose recipes on: of every class in DATA/train each tenth image validates, the
#       others train. The test images of DATA have no part in it.
#   bench/recipes.sh table RESULTS.jsonl
#       the lines as a table, a recipe's seeds together.
set -euo pipefail
usage() {
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
here=$(cd "$(dirname "$0")/.." && pwd)

table() {
    python3 - "$1" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
names = list(dict.fromkeys(line["name"] for line in lines))
print("| recipe | top-1 | MACs, share of dense | training, in dense epochs | minutes | seeds |")
print("|---|---|---|---|---|---|")
for name in names:
    own = [line for line in lines if line["name"] == name]
    each = lambda key, form: ", ".join(form.format(line[key]) for line in own)
    macs = ", ".join(f"{line['macs'] / line['macs_dense']:.1%}" for line in own)
    print(f"| {name} | {each('top1', '{:.2%}')} | {macs} | {each('dense_epochs', '{:.2f}')} | {each('minutes', '{:.0f}')} | {each('seed', '{}')} |")
PYTHON
}

heldout() { # heldout DATA DIR
    [ -d "$1/train" ] || { echo "recipes: $1 has no folder train" >&2; exit 1; }
    [ ! -e "$2" ] || { echo "recipes: $2 exists" >&2; exit 1; }
    python3 - "$1" "$2" <<'PYTHON'
import os, pathlib, sys
data, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
counts = {"train": 0, "val": 0}
for folder in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
    for number, image in enumerate(sorted(folder.iterdir())):
        split = "val" if number % 10 == 9 else "train"
        target = out / split / folder.name
        target.mkdir(parents=True, exist_ok=True)
        os.symlink(image, target / image.name)
        counts[split] += 1
print(f"{counts['train']} images to train on, {counts['val']} to choose by, in {out}")
PYTHON
}

case ${1:-} in
table) [ $# = 2 ] || usage; table "$2"; exit ;;
heldout) [ $# = 3 ] || usage; heldout "$2" "$3"; exit ;;
esac
[ $# -ge 3 ] || usage
data=$(cd "$1" && pwd)
weights=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
mkdir -p "$(dirname "$3")"
results=$(cd "$(dirname "$3")" && pwd)/$(basename "$3")
runs=${results%.jsonl}-runs
shift 3
wanted=" $* "
cd "$here"
make --no-print-directory build >/dev/null
export LD_LIBRARY_PATH=$here/.libtorch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$runs"
touch "$results"

is_done() { # is_done NAME SEED
    python3 -c 'import json, sys; sys.exit(not any((line["name"], str(line["seed"])) == tuple(sys.argv[2:]) for line in map(json.loads, open(sys.argv[1]))))' \
        "$results" "$1" "$2"
}

for seed in ${SEEDS:-0}; do
    while IFS='|' read -r name options; do
        name=${name// /}
        [ -n "$name" ] && [ "${name#\#}" = "$name" ] || continue
        [ "$wanted" = "  " ] || [[ $wanted = *" $name "* ]] || continue
        is_done "$name" "$seed" && continue
        run=$runs/$name-$seed
        options=$(sed -E "s#@([a-z0-9-]+)#$runs/\1-$seed/checkpoints/last.safetensors#g; s#WEIGHTS#$weights#g" <<<"$options")
        read -ra given <<<"$options"
        command=(train fit --config configs/cifar-resnet20-filter.toml --data "$data" --weights "$weights" --set "train.seed=$seed" "${given[@]}")
        echo "recipes: $name, seed $seed" >&2
        start=$SECONDS
        if [ -e "$run/checkpoints" ]; then
            target/release/train fit --resume --out "$run" --json >"$run.json"
        else
            "target/release/${command[@]}" --out "$run" --json >"$run.json"
        fi
        python3 - "$results" "$run.json" "$name" "$seed" "$(git rev-parse --short HEAD)" "$((SECONDS - start))" "${command[*]}" <<'PYTHON'
import json, pathlib, sys
results, result, name, seed, commit, seconds, command = sys.argv[1:]
found = json.loads(pathlib.Path(result).read_text())
line = {"name": name, "seed": int(seed), "commit": commit, "command": command, "minutes": int(seconds) / 60}
line.update({key: found[key] for key in ("top1", "macs", "macs_dense", "training_macs", "dense_epochs")})
with open(results, "a") as file:
    file.write(json.dumps(line) + "\n")
PYTHON
    done <bench/recipes.txt
done
table "$results"

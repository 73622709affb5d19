#!/usr/bin/env python3
"""Measures what a network takes on this device, with ONNX Runtime alone: no code of this project takes part.

usage: measure_times.py PROBES.zip --out times.json [--batch N] [--threads N] [--seconds N]

PROBES.zip is what `train measure --probes PROBES.zip` writes on another machine: small networks that
repeat each block of a network at several widths. They are timed in turn with the whole network, and
the table of costs that follows is written, as `train measure` would write it there (gates.times).
Needs Python 3.8 or newer, onnxruntime and numpy, which that brings.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import zipfile

DENSE = 3  # the whole network's errors are those of all others, so it is timed so often in a round
ROUNDS = (5, 100)  # at least, and at most


def fitted(seconds):
    """Seconds of the whole network and of each probe, from those of each round, of the whole network
    first, DENSE times. What all take longer in one round is the machine's pace and does not count."""
    def median(values):  # the upper one of two, as the program takes it
        return sorted(values)[len(values) // 2]

    usual = [median(own) for own in seconds]
    rounds = range(len(seconds[0]))
    pace = [median([own[turn] / middle for own, middle in zip(seconds, usual)]) for turn in rounds]
    even = [median([own[turn] / pace[turn] for turn in rounds]) for own in seconds]
    return {"dense": statistics.fmean(even[:DENSE]), "probes": even[DENSE:]}


def table(plan, outside, timed, measured):
    """The table of costs in milliseconds; the sum over the whole network is what that takes."""
    def share(group, own, probe):
        return max((own["probes"][probe] - own["probes"][0]) / group["copies"] / own["dense"], 0.0)

    groups = list(zip(plan["groups"], timed))
    of_outside = outside["probes"][0] / outside["dense"]
    of_blocks = sum(len(group["names"]) * share(group, own, group["open"]) for group, own in groups)
    dense = sorted(own["dense"] for own in [*timed, outside])
    scale = 1e3 * dense[len(dense) // 2] / (of_outside + of_blocks)
    blocks = []
    for group, own in groups:
        def cost(probe):
            return round(scale * share(group, own, probe), 6)

        block = {"names": group["names"], "open": cost(group["open"])}
        if group["closed"] is not None:
            block["closed"] = min(cost(group["closed"]), block["open"])
        if group["gate"] is not None:
            block["gate"] = round(max(cost(group["gate"]) - block["open"], 0.0), 6)
        block["channels"] = group["channels"]
        block["grids"] = [
            {"sites": grid["sites"], "widths": grid["widths"], "costs": [cost(probe) for probe in grid["probes"]]}
            for grid in group["grids"]
        ]
        blocks.append(block)
    return {
        "unit": "ms",
        "network": plan["network"],
        "image_size": plan["image_size"],
        "measured": measured,
        "align": plan["align"],
        "outside": round(scale * of_outside, 6),
        "blocks": blocks,
    }


class Network:
    """A probe in ONNX Runtime, and images for it."""

    def __init__(self, archive, probe, batch, threads):
        import numpy
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # The threads of one session would otherwise stand in the way of the next one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = archive.read(probe["file"])
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        side = probe["image_size"]
        images = numpy.random.default_rng(2).standard_normal((batch, 3, side, side)).astype(numpy.float32)
        self.feed = {self.session.get_inputs()[0].name: images}

    def seconds(self):
        start = time.perf_counter()
        self.session.run(None, self.feed)
        return time.perf_counter() - start


def timed_in_turn(archive, plan, probes, batch, threads, seconds):
    """Each network once a round: what one computes with is no warmer in the processor's memory than it is
    in a network of many parts."""
    networks = [Network(archive, probe, batch, threads) for probe in [plan["dense"]] * DENSE + probes]
    for network in networks:
        network.seconds()
    once = sum(network.seconds() for network in networks)
    rounds = int(min(max(seconds / once, ROUNDS[0]), ROUNDS[1]))
    found = [[] for _ in networks]
    for turn in range(rounds):
        for number in range(len(networks)) if turn % 2 == 0 else reversed(range(len(networks))):
            found[number].append(networks[number].seconds())
    return fitted(found)


def machine():
    try:
        with open("/proc/cpuinfo") as known:
            for line in known:
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", metavar="PROBES.zip")
    parser.add_argument("--out", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=int, default=15, help="for each shape of block")
    args = parser.parse_args()
    if min(args.batch, args.threads, args.seconds) < 1:
        parser.error("--batch, --threads and --seconds: expected at least 1")
    if os.path.exists(args.out):
        sys.exit(f"{args.out} exists; choose another --out or remove it first")
    if not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
        sys.exit(f"there is no folder for {args.out}")
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error}; install it: pip install onnxruntime")
    try:
        archive = zipfile.ZipFile(args.probes)
        plan = json.loads(archive.read("plan.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"{args.probes} is not what train measure --probes writes: {error}")
    timed = []
    for number, group in enumerate(plan["groups"], 1):
        print(f"block {number} of {len(plan['groups'])}: {group['names'][0]}", file=sys.stderr)
        timed.append(timed_in_turn(archive, plan, group["probes"], args.batch, args.threads, args.seconds))
    outside = timed_in_turn(archive, plan, [plan["outside"]], args.batch, args.threads, args.seconds)
    measured = {"machine": machine(), "runtime": "onnxruntime", "threads": args.threads, "batch": args.batch}
    with open(args.out + ".part", "w") as out:
        json.dump(table(plan, outside, timed, measured), out, indent=2)
    os.replace(args.out + ".part", args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Checks exported networks with plain PyTorch: no code of this project takes part.

usage: verify_export.py FILE.pt... [--batch N] [--rounds N]

Loads each file of `train export`, runs it on the images beside it (FILE.check.pt) and compares its logits with the ones stored
there; does the same after torch.jit.freeze and torch.jit.optimize_for_inference; then times it as loaded and optimized, in turn.
Exits with 1 if any logits differ by more than 1e-4 of the largest.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

BOUND = 1e-4


def difference(network, images, expected) -> float:
    found = network(images)
    if found.shape != expected.shape:
        sys.exit(f"logits have the shape {list(found.shape)}, expected {list(expected.shape)}")
    return ((found - expected).abs().max() / expected.abs().max()).item()


def seconds(network, images) -> float:
    start = time.perf_counter()
    network(images)
    return time.perf_counter() - start


@torch.no_grad()
def verify(path: Path, batch: int, rounds: int) -> bool:
    loaded = torch.jit.load(path)
    check = torch.jit.load(path.with_suffix(".check.pt"))
    logits, gate_values = loaded.forward_with_openings(check.images)
    assert all(((gate == 0) | (gate == 1)).all() for gate in gate_values), "gate values are 0 or 1"
    loaded.eval()
    networks = {"loaded": loaded, "frozen": torch.jit.freeze(loaded)}
    networks["optimized"] = torch.jit.optimize_for_inference(networks["frozen"])
    differences = {name: difference(network, check.images, check.logits) for name, network in networks.items()}
    differences["with gates"] = ((logits - check.logits).abs().max() / check.logits.abs().max()).item()
    # Each by itself: a comparison with NaN is false.
    good = all(value <= BOUND for value in differences.values())

    print(f"{path}: {loaded.provenance}")
    print(f"  {len(loaded.classes)} classes, images of {loaded.image_size} pixels, {loaded.macs:,} MACs, {len(gate_values)} gate sites")
    for name, value in differences.items():
        print(f"  {name:<10} differs by {value:.1e} of the largest logit")
    if rounds > 0:
        images = torch.randn(batch, 3, loaded.image_size, loaded.image_size)
        timed = {name: [] for name in ("loaded", "optimized")}
        for turn in range(rounds + 2):
            for name, times in timed.items():
                took = seconds(networks[name], images)
                if turn >= 2:  # the first runs compile
                    times.append(took)
        for name, times in timed.items():
            median = statistics.median(times)
            print(f"  {name:<10} {1000 * median:.1f} ms for {batch} images, {batch / median:.1f} images per second")
    print("  agrees" if good else f"  DIFFERS by more than {BOUND}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="0 leaves the timing out")
    arguments = parser.parse_args()
    results = [verify(path, arguments.batch, arguments.rounds) for path in arguments.files]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()

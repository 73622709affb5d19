#!/usr/bin/env python3
"""Checks exported networks with plain PyTorch and ONNX Runtime: no code of this project takes part.

usage: verify_export.py FILE.pt|FILE.onnx... [--batch N] [--rounds N]

Loads each file of `train export`, runs it on the images beside it (FILE.check.pt, FILE.check.npz)
and compares its logits with the ones stored there. A TorchScript file is compared again after
torch.jit.freeze and torch.jit.optimize_for_inference; an ONNX file passes the checker of ONNX, if
that is installed, and gives the same for one image and for seven. Then each is timed.
Exits with 1 if any logits differ by more than 1e-4 of the largest.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

BOUND = 1e-4


def difference(found, expected) -> float:
    if found.shape != expected.shape:
        sys.exit(f"logits have the shape {list(found.shape)}, expected {list(expected.shape)}")
    return float(abs(found - expected).max() / abs(expected).max())


def timed(runs, batch: int, rounds: int) -> None:
    """Calls each of `runs`, by name, in turn and prints the medians."""
    times = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 2:  # the first runs compile
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"  {name:<10} {1000 * median:.1f} ms for {batch} images, {batch / median:.1f} images per second")


def verdict(differences) -> bool:
    for name, value in differences.items():
        print(f"  {name:<10} differs by {value:.1e} of the largest logit")
    # Each by itself: a comparison with NaN is false.
    good = all(value <= BOUND for value in differences.values())
    print("  agrees" if good else f"  DIFFERS by more than {BOUND}")
    return good


def verify_torchscript(path: Path, batch: int, rounds: int) -> bool:
    import torch

    with torch.no_grad():
        loaded = torch.jit.load(path)
        check = torch.jit.load(path.with_suffix(".check.pt"))
        logits, gate_values = loaded.forward_with_openings(check.images)
        assert all(((gate == 0) | (gate == 1)).all() for gate in gate_values), "gate values are 0 or 1"
        loaded.eval()
        networks = {"loaded": loaded, "frozen": torch.jit.freeze(loaded)}
        networks["optimized"] = torch.jit.optimize_for_inference(networks["frozen"])
        size = loaded.image_size
        print(f"{path}: {loaded.provenance}")
        print(f"  {len(loaded.classes)} classes, images of {size} pixels, {loaded.macs:,} MACs, {len(gate_values)} gate sites")
        differences = {name: difference(network(check.images), check.logits) for name, network in networks.items()}
        differences["with gates"] = difference(logits, check.logits)
        if rounds > 0:
            images = torch.randn(batch, 3, size, size)
            timed({name: lambda network=networks[name]: network(images) for name in ("loaded", "optimized")}, batch, rounds)
        return verdict(differences)


def verify_onnx(path: Path, batch: int, rounds: int) -> bool:
    import numpy
    import onnxruntime

    try:
        import onnx

        onnx.checker.check_model(str(path), full_check=True)
    except ModuleNotFoundError:
        print("  without the package onnx its checker is left out")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    check = numpy.load(path.with_suffix(".check.npz"))
    images, logits = check["images"], check["logits"]
    classes = about["classes"].split("\n")
    macs = int(about["macs"])
    print(f"{path}: {about['provenance']}")
    print(f"  {len(classes)} classes, images of {about['image_size']} pixels, {macs:,} MACs")
    run = lambda images: session.run(["logits"], {"images": images})[0]
    outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"images": images})))
    if "gate_values" in outputs:
        assert numpy.isin(outputs["gate_values"], [0, 1]).all(), "gate values are 0 or 1"
    seven = [0, 1, 1, 0, 0, 1, 0]
    differences = {
        "loaded": difference(outputs["logits"], logits),
        "one": difference(run(images[:1]), logits[:1]),
        "seven": difference(run(images[seven]), logits[seven]),
    }
    if rounds > 0:
        many = images[numpy.arange(batch) % len(images)]
        timed({"loaded": lambda: run(many)}, batch, rounds)
    return verdict(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="0 leaves the timing out")
    arguments = parser.parse_args()
    verify = lambda path: verify_onnx if path.suffix == ".onnx" else verify_torchscript
    results = [verify(path)(path, arguments.batch, arguments.rounds) for path in arguments.files]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()

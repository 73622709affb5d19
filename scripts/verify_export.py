#!/usr/bin/env python3
"""Checks exported networks with plain PyTorch and ONNX Runtime: no code of this project takes part.

usage: verify_export.py FILE.pt|FILE.onnx... [--dense FILE] [--data DIR] [--batch N] [--rounds N]

Loads each file of `train export`, runs it on the images beside it (FILE.check.pt, FILE.check.npz)
and compares its logits with the ones stored there. A TorchScript file is compared again after
torch.jit.freeze and torch.jit.optimize_for_inference; an ONNX file passes the checker of ONNX, if
that is installed, and gives the same for one image and for seven. Then each is timed, with --dense
in turn with the file of the dense network, as a share of its time.
With --data, a folder of class folders (or one with such a folder val), the top-1 of each is
measured, on images resized and cropped as the file says, and with --dense how often both agree.
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
    """Calls each of `runs`, by name, in turn and prints the medians, as shares of the last one's."""
    times = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items() if turn % 2 else reversed(runs.items()):
            start = time.perf_counter()
            run()
            if turn >= 2:  # the first runs compile
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        median = statistics.median(taken)
        share = f", {100 * median / statistics.median(times['dense']):.1f}% of dense" if "dense" in times else ""
        print(f"  {name:<10} {1000 * median:.1f} ms for {batch} images, {batch / median:.1f} images per second{share}")


def verdict(differences) -> bool:
    for name, value in differences.items():
        print(f"  {name:<10} differs by {value:.1e} of the largest logit")
    # Each by itself: a comparison with NaN is false.
    good = all(value <= BOUND for value in differences.values())
    print("  agrees" if good else f"  DIFFERS by more than {BOUND}")
    return good


class TorchScriptFile:
    def __init__(self, path: Path):
        import torch

        torch.set_grad_enabled(False)
        self.torch = torch
        self.loaded = torch.jit.load(path).eval()
        self.frozen = torch.jit.freeze(self.loaded)
        self.optimized = torch.jit.optimize_for_inference(self.frozen)
        self.takes_bytes = False
        for name in ("image_size", "resize", "mean", "std", "classes", "macs", "provenance"):
            setattr(self, name, getattr(self.loaded, name))

    def run(self, images):
        return self.optimized(self.torch.from_numpy(images)).numpy()

    def differences(self, path: Path):
        check = self.torch.jit.load(path.with_suffix(".check.pt"))
        logits, gate_values = self.loaded.forward_with_openings(check.images)
        assert all(((gate == 0) | (gate == 1)).all() for gate in gate_values), "gate values are 0 or 1"
        networks = {"loaded": self.loaded, "frozen": self.frozen, "optimized": self.optimized}
        found = {name: difference(network(check.images), check.logits) for name, network in networks.items()}
        return {**found, "with gates": difference(logits, check.logits)}


class OnnxFile:
    def __init__(self, path: Path):
        import onnxruntime

        try:
            import onnx

            onnx.checker.check_model(str(path), full_check=True)
        except ModuleNotFoundError:
            print("  without the package onnx its checker is left out")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        self.takes_bytes = self.session.get_inputs()[0].type == "tensor(uint8)"
        self.classes = about["classes"].split("\n")
        self.mean, self.std = ([float(value) for value in about[name].split(",")] for name in ("mean", "std"))
        self.image_size, self.resize, self.macs = (int(about[name]) for name in ("image_size", "resize", "macs"))
        self.provenance = about["provenance"]

    def run(self, images):
        return self.session.run(["logits"], {"images": images})[0]

    def differences(self, path: Path):
        import numpy

        check = numpy.load(path.with_suffix(".check.npz"))
        images, logits = check["images"], check["logits"]
        outputs = dict(
            zip([output.name for output in self.session.get_outputs()], self.session.run(None, {"images": images}))
        )
        if "gate_values" in outputs:
            assert numpy.isin(outputs["gate_values"], [0, 1]).all(), "gate values are 0 or 1"
        seven = [0, 1, 1, 0, 0, 1, 0]
        return {
            "loaded": difference(outputs["logits"], logits),
            "one": difference(self.run(images[:1]), logits[:1]),
            "seven": difference(self.run(images[seven]), logits[seven]),
        }


def opened(path: Path):
    return (OnnxFile if path.suffix == ".onnx" else TorchScriptFile)(path)


def image(path: Path, network):
    """An image as a network takes it: resized by its shorter side, its middle cropped out."""
    import numpy
    from PIL import Image

    with Image.open(path) as file:
        picture = file.convert("RGB")
    scale = network.resize / min(picture.size)
    if scale != 1:
        size = [network.resize if side == min(picture.size) else int(side * scale) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - network.image_size) / 2) for side in picture.size)
    pixels = numpy.asarray(picture.crop((left, top, left + network.image_size, top + network.image_size)))
    if network.takes_bytes:
        return pixels
    return ((pixels / numpy.float32(255) - network.mean) / network.std).astype(numpy.float32).transpose(2, 0, 1)


def labels(data: Path, network, batch: int):
    """What a network says of every image of a folder, and what it should."""
    import numpy

    folder = data / "val" if (data / "val").is_dir() else data
    files = [(file, network.classes.index(one.name)) for one in sorted(folder.iterdir()) if one.is_dir()
             for file in sorted(one.iterdir()) if one.name in network.classes]
    if not files:
        sys.exit(f"{folder} holds no folders named after the network's classes")
    found = []
    for first in range(0, len(files), batch):
        part = [image(file, network) for file, _ in files[first : first + batch]]
        found.extend(network.run(numpy.stack(part)).argmax(1))
    return numpy.array(found), numpy.array([label for _, label in files])


def verify(path: Path, dense, arguments) -> bool:
    import numpy

    print(f"{path}:")
    network = opened(path)
    print(f"  {network.provenance}")
    print(f"  {len(network.classes)} classes, images of {network.image_size} pixels, {network.macs:,} MACs")
    good = verdict(network.differences(path))
    if arguments.data:
        found, expected = labels(arguments.data, network, 64)
        print(f"  top-1 {100 * (found == expected).mean():.2f}% of {len(expected)} images")
        if dense:
            theirs, _ = labels(arguments.data, dense, 64)
            print(f"  dense {100 * (theirs == expected).mean():.2f}%, the same label for {100 * (found == theirs).mean():.2f}%")
    if arguments.rounds > 0:
        def noise(one):
            shape = (arguments.batch, one.image_size, one.image_size, 3)
            if one.takes_bytes:
                return numpy.random.default_rng(0).integers(0, 256, shape, dtype=numpy.uint8)
            return numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32).transpose(0, 3, 1, 2).copy()

        images = noise(network)
        runs = {"this file": lambda: network.run(images)}
        if dense:
            others = noise(dense)
            runs["dense"] = lambda: dense.run(others)
        timed(runs, arguments.batch, arguments.rounds)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--dense", type=Path, metavar="FILE", help="the dense network, in either format")
    parser.add_argument("--data", type=Path, metavar="DIR", help="images in folders named as their classes")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="0 leaves the timing out")
    arguments = parser.parse_args()
    dense = opened(arguments.dense) if arguments.dense else None
    results = [verify(path, dense, arguments) for path in arguments.files]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()

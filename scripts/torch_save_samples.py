#!/usr/bin/env python3
"""Writes weights files as PyTorch writes them, for tests of crates/arch and as seeds for scripts/fuzz.sh.

usage: torch_save_samples.py OUT

OUT/NAME.pth         the zip format
OUT/NAME.legacy.pth  the format before PyTorch 1.6
OUT/NAME.pickle      the pickle inside, behind a Z, for the fuzzer
"""

import argparse
import io
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from datetime import datetime
from pathlib import Path

import numpy
import torch


def samples():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    # Three views of one storage: transposed, with steps, and whole.
    yield "views", OrderedDict(transposed=base.t(), steps=base[1:, ::2], whole=base)
    yield "nested", {"epoch": 3, "state_dict": {"module.w": torch.ones(4), "module.n": torch.tensor(7)}}
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    yield "training", {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": numpy.float64(76.1),
        "classes": {"cat"},
        "optimizer": optimizer.state_dict(),
        "state_dict": {"model": model.state_dict()},
    }
    yield "parameter", {"w": torch.nn.Parameter(torch.ones(3))}
    yield "empty", {"w": torch.ones(0, 3), "scalar": torch.tensor(2.5)}
    for kind in [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool]:
        yield str(kind).removeprefix("torch."), {"w": torch.ones(3, dtype=kind)}
    yield "module", torch.nn.BatchNorm1d(2).state_dict()


def other_ways(folder: Path) -> None:
    """Other protocols of pickle, another order of bytes, and what is no state dict."""
    weights = OrderedDict(w=torch.tensor([1.5, -2.0, 3.25]))
    for protocol in [1, 3, 4, 5]:
        torch.save(weights, folder / f"protocol{protocol}.pth", pickle_protocol=protocol)
        old = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        torch.save(weights, folder / f"protocol{protocol}.legacy.pth", **old)
    # As a machine of the other order of bytes would write it.
    with zipfile.ZipFile(folder / "protocol3.pth") as little, zipfile.ZipFile(folder / "big-endian.pth", "w") as big:
        for name in little.namelist():
            content = little.read(name)
            if "/data/" in name:
                content = numpy.frombuffer(content, "<f4").astype(">f4").tobytes()
            big.writestr(name, b"big" if name.endswith("byteorder") else content)
    average = OrderedDict(w=torch.zeros(3), n_averaged=torch.tensor(9))
    torch.save({"epoch": 3, "model_ema": {"module": average}, "model": weights}, folder / "average.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "whole.pth")
    torch.save({"epoch": 1, "model": torch.nn.Linear(2, 2)}, folder / "whole-inside.pth")
    by_products = dict(random=numpy.random.get_state(), losses=defaultdict(list, a=[1.0, 2.0]), kind=torch.float16)
    by_products |= dict(began=datetime.now(), values=numpy.ones(3), root=complex(0, 1), raw=bytearray(b"x"))
    torch.save(by_products | {"state_dict": weights}, folder / "by-products.pth")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "script.pth"))


def main(out: str) -> None:
    folder = Path(out)
    for name, content in samples():
        torch.save(content, folder / f"{name}.pth")
        torch.save(content, folder / f"{name}.legacy.pth", _use_new_zipfile_serialization=False)
        archive = zipfile.ZipFile(folder / f"{name}.pth")
        entry = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
        (folder / f"{name}.pickle").write_bytes(b"Z" + archive.read(entry))
    other_ways(folder)
    (folder / "protocol5.pickle").write_bytes(b"Z" + pickle.dumps({"a": [1, 2.0, None, b"x", ("y", True)]}, protocol=5))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

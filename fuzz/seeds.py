#!/usr/bin/env python3
"""Writes weights files of every kind as seeds for the fuzzer.

usage: seeds.py DIR

The first byte of a seed says what the rest is; see fuzz_targets/state_dict.rs.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch


def contents():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    yield "plain", {"w": torch.ones(2, 2)}
    yield "views", OrderedDict(a=base.t(), b=base[1:, ::2], c=base)
    yield "nested", {"epoch": 3, "state_dict": {"module.w": torch.ones(4), "module.n": torch.tensor(7)}}
    yield "parameter", {"w": torch.nn.Parameter(torch.ones(3))}
    for kind in [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]:
        yield str(kind).removeprefix("torch."), {"w": torch.ones(3, dtype=kind)}
    yield "model", torch.nn.BatchNorm1d(2).state_dict()


def main(folder: str) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents():
        for zipped in [True, False]:
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            (out / f"{name}-{'zip' if zipped else 'legacy'}").write_bytes(b"\0" + file.getvalue())
            if zipped:
                archive = zipfile.ZipFile(file)
                pickled = archive.read(next(entry for entry in archive.namelist() if entry.endswith("data.pkl")))
                (out / f"{name}-pickle").write_bytes(b"\1" + pickled)
                (out / f"{name}-legacy-pickle").write_bytes(b"\2" + pickled)
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (out / "safetensors").write_bytes(b"\0" + len(header).to_bytes(8, "little") + header + bytes(8))
    (out / "protocol5").write_bytes(b"\1" + pickle.dumps({"a": [1, 2.0, None, b"x", ("y", True)]}, protocol=5))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

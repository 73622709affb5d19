#!/usr/bin/env python3
"""Prepares images as torchvision does for evaluation, for the parity test in crates/data/tests/torchvision.rs.

usage: torchvision_transform.py RESIZE SIZE OUT IMAGE...

OUT    raw bytes [number of images, SIZE, SIZE, 3]: decoded by Pillow, resized and cut by torchvision
"""

import sys

import numpy
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize


def main(resize: str, size: str, out: str, *paths: str) -> None:
    transform = Compose([Resize(int(resize)), CenterCrop(int(size))])
    with open(out, "wb") as file:
        for path in paths:
            file.write(numpy.asarray(transform(Image.open(path).convert("RGB"))).tobytes())


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

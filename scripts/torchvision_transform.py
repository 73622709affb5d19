#!/usr/bin/env python3
"""Prepares images as torchvision does, for the parity tests of crates/data.

usage: torchvision_transform.py OUT <LIST

LIST   JSON on standard input: [{"path", "size", "resize"}] for evaluation, [{"path", "size", "crop", "mirrored"}] for training,
       where crop is [left, top, width, height] in pixels of the image
OUT    raw bytes [number of images, size, size, 3]: decoded by Pillow, cut and resized by torchvision
"""

import json
import sys

import numpy
from PIL import Image
from torchvision.transforms.functional import center_crop, hflip, resize, resized_crop


def prepare(entry: dict) -> Image.Image:
    image, size = Image.open(entry["path"]).convert("RGB"), entry["size"]
    if "resize" in entry:
        return center_crop(resize(image, entry["resize"]), [size, size])
    left, top, width, height = entry["crop"]
    image = resized_crop(image, top, left, height, width, [size, size])
    return hflip(image) if entry["mirrored"] else image


def main(out: str) -> None:
    with open(out, "wb") as file:
        for entry in json.load(sys.stdin):
            file.write(numpy.asarray(prepare(entry)).tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])

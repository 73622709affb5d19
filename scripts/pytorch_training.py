#!/usr/bin/env python3
"""What PyTorch and torchvision do to learning rates and images in training, for the parity tests of crates/trainer and crates/data.

usage: pytorch_training.py <CALLS >RESULTS

CALLS     JSON: a list of [name of a function below, {its arguments}]
RESULTS   JSON: what they return, in the same order
"""

import json
import sys
from unittest import mock

import numpy
import torch
from PIL import Image
from torch.optim import lr_scheduler
from torchvision.transforms import RandomErasing, RandomResizedCrop, functional, v2


def learning_rates(shape: str, warmup: int, steps: int, drop_every: int = 1, factor: float = 1.0, power: float = 1.0) -> list:
    """Those of `steps` steps, of which `warmup` rise to 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    after = {
        "step": lambda: lr_scheduler.StepLR(optimizer, drop_every, factor),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup),
        "polynomial": lambda: lr_scheduler.PolynomialLR(optimizer, steps - warmup, power),
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
    }
    if warmup:
        rise = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1)
        scheduler = lr_scheduler.SequentialLR(optimizer, [rise, after[shape]()], [warmup])
    else:
        scheduler = after[shape]()
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def mixed(images: list, labels: list, logits: list, share: float, center: list, smoothing: float) -> dict:
    """Two images [2, C, H, W] mixed with each other: `share` of each is left, or around the `center` (row, column) it is pasted."""
    classes = len(logits[0])
    mix = v2.CutMix(num_classes=classes) if center else v2.MixUp(num_classes=classes)
    mix._dist = mock.Mock(sample=lambda _: torch.tensor(share, dtype=torch.float64))
    draws = [torch.tensor([at]) for at in reversed(center or [])]
    with mock.patch("torch.randint", side_effect=draws):
        images, labels = mix(torch.tensor(images), torch.tensor(labels))
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), labels, label_smoothing=smoothing)
    return {"images": images.flatten().tolist(), "cross_entropy": loss.item()}


def erased(size: int, count: int) -> list:
    """[top, left, height, width] of the rectangles torchvision erases by default."""
    torch.manual_seed(0)
    erasing, image = RandomErasing(), torch.zeros(3, size, size)
    return [erasing.get_params(image, erasing.scale, erasing.ratio, [0.0])[:4] for _ in range(count)]


def cropped(width: int, height: int, count: int) -> list:
    """[top, left, height, width] of the crops torchvision trains on by default."""
    torch.manual_seed(0)
    cropping, image = RandomResizedCrop(224), torch.zeros(3, height, width)
    return [cropping.get_params(image, cropping.scale, cropping.ratio) for _ in range(count)]


def recolored(pixels: list, change: str, factor: float) -> list:
    """The RGB pixels of a row after one change of color."""
    row = numpy.array(pixels, dtype=numpy.uint8).reshape(1, -1, 3)
    # On a PIL image hues are rounded to 1/255 of the wheel.
    image = torch.from_numpy(row).permute(2, 0, 1) if change == "hue" else Image.fromarray(row)
    image = getattr(functional, f"adjust_{change}")(image, factor)
    image = image.permute(1, 2, 0).numpy() if change == "hue" else numpy.asarray(image)
    return image.flatten().tolist()


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    json.dump([globals()[name](**arguments) for name, arguments in json.load(sys.stdin)], sys.stdout)

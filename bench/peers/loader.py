#!/usr/bin/env python3
"""How fast other loaders make the batches that `train bench loader` makes: the peers of bench/loader.sh.

usage: loader.py torchvision-pillow|torchvision|dali DIR [--split training|evaluation] [--batch N] [--threads N] [--rounds N]

DIR is a folder of class folders. Random resized crop to 224, flip and normalize; or 256 on the shorter side, 224 in the middle;
float batches of 64. Prints JSON: images per second of every round over all whole batches; the first round does not count.
DALI runs on the CPU and needs `pip install nvidia-dali-cuda120` (any CUDA version) in the Python that runs this.
"""

import argparse
import json
import time
from pathlib import Path

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def torchvision_batches(arguments, pillow):
    import torch
    from torchvision import transforms as old
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2 as new

    torch.set_num_threads(1)
    training = arguments.split == "training"
    if pillow:
        crop = [old.RandomResizedCrop(224), old.RandomHorizontalFlip()] if training else [old.Resize(256), old.CenterCrop(224)]
        transform = old.Compose([*crop, old.ToTensor(), old.Normalize(MEAN, DEVIATION)])
        images = ImageFolder(arguments.folder, transform)
    else:
        crop = (
            [new.RandomResizedCrop(224, antialias=True), new.RandomHorizontalFlip()]
            if training
            else [new.Resize(256, antialias=True), new.CenterCrop(224)]
        )
        transform = new.Compose([*crop, new.ToDtype(torch.float32, scale=True), new.Normalize(MEAN, DEVIATION)])
        images = ImageFolder(arguments.folder, transform, loader=lambda path: decode_image(path, ImageReadMode.RGB))
    loader = torch.utils.data.DataLoader(
        images,
        arguments.batch,
        shuffle=training,
        drop_last=training,
        num_workers=arguments.threads,
        persistent_workers=True,
    )
    while True:
        for batch, _ in loader:
            yield len(batch)
        yield None


def dali_batches(arguments):
    from nvidia.dali import fn, pipeline_def, types

    training = arguments.split == "training"
    count = sum(1 for path in Path(arguments.folder).glob("*/*") if path.is_file())

    @pipeline_def(batch_size=arguments.batch, num_threads=arguments.threads, device_id=None, prefetch_queue_depth=2)
    def pipeline():
        files, labels = fn.readers.file(file_root=arguments.folder, random_shuffle=training, name="files")
        if training:
            images = fn.decoders.image_random_crop(files, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0])
            images = fn.resize(images, size=[224, 224], interp_type=types.INTERP_TRIANGULAR)
            mirror = fn.random.coin_flip()
        else:
            images = fn.decoders.image(files, device="cpu", output_type=types.RGB)
            images = fn.resize(images, resize_shorter=256, interp_type=types.INTERP_TRIANGULAR)
            mirror = 0
        images = fn.crop_mirror_normalize(
            images,
            crop=(224, 224),
            mirror=mirror,
            dtype=types.FLOAT,
            output_layout="HWC",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in DEVIATION],
        )
        return images, labels

    made = pipeline()
    made.build()
    while True:
        for _ in range(count // arguments.batch):
            images, _ = made.run()
            yield len(images)
        yield None


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("peer", choices=["torchvision-pillow", "torchvision", "dali"])
    parser.add_argument("folder")
    parser.add_argument("--split", choices=["training", "evaluation"], default="training")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.peer == "dali":
        batches = dali_batches(arguments)
    else:
        batches = torchvision_batches(arguments, pillow=arguments.peer == "torchvision-pillow")
    paces = []
    for _ in range(1 + arguments.rounds):
        images, start = 0, time.perf_counter()
        while (batch := next(batches)) is not None:
            images += batch
        paces.append(images / (time.perf_counter() - start))
    paces = sorted(paces[1:])
    print(json.dumps({"images_per_second": paces[len(paces) // 2], "turns": paces}))


if __name__ == "__main__":
    main()

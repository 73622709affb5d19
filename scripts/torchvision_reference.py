#!/usr/bin/env python3
"""Writes what torchvision computes, for the parity tests in crates/arch/tests/torchvision.rs.

usage: torchvision_reference.py NAME OUT

OUT/weights.pth    random state dict of torchvision.models.NAME, with batch norm statistics of its own
OUT/reference.pth  images [2, 3, 96, 96]; logits [2, 1000] in evaluation mode; and of one training pass with cross entropy
                   the loss, the gradient of the first convolution and the running mean its batch norm then has
"""

import sys

import torch
import torchvision


def main(name: str, out: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    images = torch.randn(2, 3, 96, 96)

    # A fresh network's statistics do not match its activations, which would then grow from block to
    # block.
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.1)
            norm.momentum = 1.0
        model.train()(torch.randn(8, 3, 96, 96))
        for norm in norms:
            norm.momentum = 0.1
    torch.save(model.state_dict(), f"{out}/weights.pth")

    with torch.no_grad():
        logits = model.eval()(images)
    # Dropout draws other numbers in every framework.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = torch.nn.functional.cross_entropy(model.train()(images), torch.tensor([3, 7]))
    loss.backward()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    torch.save(
        {
            "images": images,
            "logits": logits,
            "loss": loss.detach(),
            "gradient": first.weight.grad,
            "running_mean": norms[0].running_mean,
        },
        f"{out}/reference.pth",
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

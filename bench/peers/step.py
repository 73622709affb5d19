"""Training steps of gated networks in PyTorch, timed as `train bench step` times them.

    python bench/peers/step.py --arch resnet50 --gates layer --batch 16
    python bench/peers/step.py --arch mobilenet_v2 --gates none --batch 16 --layout nchw --optimizer loop

The same network, gates and losses as this project's: torchvision's model, a dependent gate over every residual branch (layer), or
independent gates over groups of 8 filters between the convolutions (filter), straight-through Gumbel samples, the batch activation loss,
SGD with momentum and weight decay. The best settings are the default: channels last, a fused optimizer. `--layout nchw --optimizer loop` is what PyTorch does when
nothing is asked of it. One line of JSON on stdout.
"""

import argparse
import json
import resource
import time

import torch
import torchvision
from torch import nn
from torch.nn import functional


def sample(logits):
    """[N, n, 2] to [N, n], exactly 0 or 1, with the gradient of the softmax."""
    margin = logits[..., 1] - logits[..., 0]
    uniform = torch.rand_like(margin).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid(margin + torch.log(uniform) - torch.log1p(-uniform))
    return soft - soft.detach() + (soft > 0.5).float()


class DependentGate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, 16, bias=False)
        self.bn = nn.BatchNorm1d(16)
        self.fc2 = nn.Linear(16, 2)
        nn.init.normal_(self.fc2.weight, std=0.001)
        self.fc2.bias.data = torch.tensor([0.0, 2.0])

    def forward(self, features):
        pooled = features.mean((2, 3))
        return sample(self.fc2(functional.relu(self.bn(self.fc1(pooled)))).view(-1, 1, 2))


class FilterGates(nn.Module):
    def __init__(self, channels, group=8):
        super().__init__()
        self.group = group
        self.logits = nn.Parameter(torch.tensor([0.0, 2.0]).repeat(channels // group, 1))

    def forward(self, features):
        gate_values = sample(self.logits.expand(features.shape[0], -1, -1))
        mask = gate_values.repeat_interleave(self.group, 1)[:, :, None, None]
        return features * mask, gate_values


class Bottleneck(nn.Module):
    """torchvision's block with gates."""

    def __init__(self, block, gates):
        super().__init__()
        self.block = block
        self.gate = DependentGate(block.conv1.in_channels) if gates == "layer" else None
        self.filters = None
        if gates == "filter":
            self.filters = nn.ModuleList(FilterGates(conv.out_channels) for conv in (block.conv1, block.conv2))
        self.gate_values = []

    def forward(self, x):
        block = self.block
        self.gate_values = []
        out = block.relu(block.bn1(block.conv1(x)))
        if self.filters:
            out, gate_values = self.filters[0](out)
            self.gate_values.append(gate_values)
        out = block.relu(block.bn2(block.conv2(out)))
        if self.filters:
            out, gate_values = self.filters[1](out)
            self.gate_values.append(gate_values)
        out = block.bn3(block.conv3(out))
        if self.gate:
            gate_values = self.gate(x)
            self.gate_values.append(gate_values)
            out = out * gate_values[:, :, None, None]
        shortcut = x if block.downsample is None else block.downsample(x)
        return block.relu(out + shortcut)


class InvertedResidual(nn.Module):
    """torchvision's block with gates."""

    def __init__(self, block, gates):
        super().__init__()
        self.block = block
        convs = [layer for layer in block.conv.modules() if isinstance(layer, nn.Conv2d)]
        self.gate = DependentGate(convs[0].in_channels) if gates == "layer" and block.use_res_connect else None
        hidden = convs[-1].in_channels
        self.filters = FilterGates(hidden) if gates == "filter" and hidden % 8 == 0 else None
        self.gate_values = []

    def forward(self, x):
        self.gate_values = []
        layers = list(self.block.conv)
        out = x
        # Up to the depthwise convolution, whose filters are the hidden channels; then the
        # projection and its batch norm.
        for layer in layers[:-2]:
            out = layer(out)
        if self.filters:
            out, gate_values = self.filters(out)
            self.gate_values.append(gate_values)
        for layer in layers[-2:]:
            out = layer(out)
        if self.gate:
            gate_values = self.gate(x)
            self.gate_values.append(gate_values)
            out = out * gate_values[:, :, None, None]
        return x + out if self.block.use_res_connect else out


def build(arch, gates):
    model = getattr(torchvision.models, arch)(num_classes=10)
    kinds = {torchvision.models.resnet.Bottleneck: Bottleneck, torchvision.models.mobilenetv2.InvertedResidual: InvertedResidual}
    gated = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            kind = kinds.get(type(child))
            if kind and gates != "none":
                gated.append(kind(child, gates))
                setattr(parent, name, gated[-1])
    return model, gated


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50", choices=["resnet50", "mobilenet_v2"])
    parser.add_argument("--gates", default="layer", help="none, layer or filter, or several: none,layer; one line each")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layout", default="nhwc", choices=["nhwc", "nchw"])
    parser.add_argument("--optimizer", default="fused", choices=["fused", "foreach", "loop"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    args = parser.parse_args()

    device = torch.device(args.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    for gates in args.gates.split(","):
        print(json.dumps(timed(args, gates, device)), flush=True)


def timed(args, gates, device):
    torch.manual_seed(0)
    layout = torch.channels_last if args.layout == "nhwc" else torch.contiguous_format
    model, gated = build(args.arch, gates)
    model = model.to(device, memory_format=layout).train()
    run = torch.compile(model) if args.compile else model
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        foreach=args.optimizer == "foreach",
        fused=args.optimizer == "fused",
    )
    images = torch.randn(args.batch, 3, 224, 224, device=device).to(memory_format=layout)
    labels = torch.randint(10, (args.batch,), device=device)
    half = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[args.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            logits = run(images)
        loss = functional.cross_entropy(logits.float(), labels)
        gate_values = [gate_values.flatten() for block in gated for gate_values in block.gate_values]
        if gate_values:
            loss = loss + (torch.cat(gate_values).mean() - 0.6) ** 2
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        host = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return host, time.perf_counter()

    for _ in range(2):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, hosts = [], []
    for _ in range(args.rounds):
        start = time.perf_counter()
        host, end = step()
        hosts.append(host - start)
        seconds.append(end - start)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds.sort()
    median, host = seconds[len(seconds) // 2], sorted(hosts)[len(hosts) // 2]
    found = {"images_per_second": args.batch / median, "seconds": seconds, "host_seconds": host}
    return {**vars(args), **found, "gates": gates, "peak_memory_bytes": memory}


if __name__ == "__main__":
    main()

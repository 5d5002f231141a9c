"""The PyTorch half of `detector.py`: the same detector and its training step, written plainly.

    PYTHON benchmarks/detector_torch.py DATA THREADS FORMAT

`detector.py` starts it. It needs PyTorch and NumPy, and nothing of this library. DATA holds the images, objects,
anchors and weights, which are named as there. To each line that comes in goes one of JSON out, after a step. FORMAT is
`contiguous_format` or `channels_last`.
"""

import json
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BLOCKS, WIDTHS, NECKS, WIDTH, DEPTH, LEVELS, ANCHORS = (2, 2, 2, 2), (64, 128, 256, 512), 3, 64, 3, 5, 9
# Of each cell: its inputs among the five maps and the cells before it, the coarser first, its level, and whether the
# first gates the second; NAS-FPN of Ghiasi et al., 2019.
CELLS = ((3, 1, 1, True), (5, 1, 1, False), (6, 0, 0, False), (7, 6, 1, False), (8, 7, 2, True), (9, 6, 4, True))
CELLS += ((10, 9, 3, True),)
FREE = 2  # cells that are no new level
RATE, MOMENTUM, DECAY = 0.001, 0.9, 4e-5


def norm(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, track_running_stats=False)


def conv(width_in: int, width_out: int, k: int = 3, stride: int = 1, bias: bool = False) -> nn.Module:
    return nn.Conv2d(width_in, width_out, k, stride, k // 2, bias=bias)


class ConvNorm(nn.Module):
    def __init__(self, *args):
        super().__init__()
        self.conv = conv(*args)
        self.norm = norm(args[1])

    def forward(self, x):
        return self.norm(self.conv(x))


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.layers = nn.ModuleList([ConvNorm(width_in, width, 3, stride), ConvNorm(width, width)])
        other = stride > 1 or width_in != width
        self.shortcut = nn.ModuleList([ConvNorm(width_in, width, 1, stride)] if other else [])

    def forward(self, x):
        y = self.layers[1](F.relu(self.layers[0](x)))
        for layer in self.shortcut:
            x = layer(x)
        return F.relu(x + y)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(3, 64, 7, 2)
        blocks, before, self.ends = [], 64, []
        for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
            for i in range(count):
                blocks.append(Block(before, width, 2 if stage and not i else 1))
                before = width
            self.ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        x, maps = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return [maps[end] for end in self.ends[1:]]


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.laterals = nn.ModuleList([conv(width, WIDTH, 1) for width in WIDTHS[1:]])
        self.norms = nn.ModuleList([norm(WIDTH) for _ in WIDTHS[1:]])

    def forward(self, x):
        maps = zip(self.backbone(x), self.laterals, self.norms, strict=True)
        pyramid = [norm(lateral(x)) for x, lateral, norm in maps]
        while len(pyramid) < LEVELS:
            pyramid.append(F.max_pool2d(pyramid[-1], 2))
        return pyramid


def resampled(x, source: int, target: int):
    if target > source:
        return F.max_pool2d(x, 2 ** (target - source))
    return F.interpolate(x, scale_factor=2 ** (source - target), mode="nearest") if target < source else x


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([ConvNorm(WIDTH, WIDTH) for _ in CELLS])

    def forward(self, pyramid):
        maps, levels, taken = list(pyramid), list(range(LEVELS)), set()
        for t, ((i, j, level, gates), cell) in enumerate(zip(CELLS, self.cells, strict=True)):
            first, second = (resampled(maps[each], levels[each], level) for each in (i, j))
            x = first + second * (torch.sigmoid(F.adaptive_max_pool2d(first, 1)) if gates else 1)
            taken |= {i, j}
            if t >= FREE:  # takes what is of its level and was taken by nobody
                for k in range(LEVELS + t):
                    if levels[k] == level and k not in taken:
                        x = x + maps[k]
                        taken.add(k)
            maps.append(cell(F.relu(x)))
            levels.append(level)
        return [maps[levels.index(level, LEVELS + FREE)] for level in range(LEVELS)]


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Stem()
        self.necks = nn.ModuleList([Neck() for _ in range(NECKS)])

    def forward(self, x):
        maps = self.stem(x)
        for neck in self.necks:
            maps = neck(maps)
        return maps


class Level(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([norm(WIDTH) for _ in range(DEPTH)])


class Tower(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.convs = nn.ModuleList([conv(WIDTH, WIDTH) for _ in range(DEPTH)])
        self.levels = nn.ModuleList([Level() for _ in range(LEVELS)])
        self.last = conv(WIDTH, outputs, bias=True)

    def forward(self, x, level: int):
        for conv, norm in zip(self.convs, self.levels[level].norms, strict=True):
            x = F.relu(norm(conv(x)))
        return self.last(x).permute(0, 2, 3, 1).flatten(1)


class Head(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.boxes = Tower(ANCHORS * classes), Tower(ANCHORS * 4)

    def forward(self, maps):
        logits = torch.cat([self.classes(x, level) for level, x in enumerate(maps)], 1)
        codes = torch.cat([self.boxes(x, level) for level, x in enumerate(maps)], 1)
        return logits.view(len(logits), codes.shape[1] // 4, -1), codes.view(len(codes), -1, 4)


class Detector(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.body, self.head = Body(), Head(classes)

    def forward(self, x):
        return self.head(self.body(x))


def overlap(one, other):
    low, high = torch.maximum(one[:, None, :2], other[:, :2]), torch.minimum(one[:, None, 2:], other[:, 2:])
    common = (high - low).clamp(min=0).prod(2)
    area, others = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other))
    return common / (area[:, None] + others - common)


def matched(boxes, classes, anchors):
    """Of an image, each anchor's class, -1 for the background and -2 for neither, and its code."""
    shared = overlap(anchors, boxes)
    best, own = shared.max(1)
    label = torch.where(best >= 0.5, classes[own], torch.where(best < 0.4, -1, -2))
    for i in reversed(range(len(boxes))):
        nearest = shared[:, i].argmax()
        own[nearest], label[nearest] = i, classes[i]
    box, sides = boxes[own], anchors[:, 2:] - anchors[:, :2]
    shift = (box[:, :2] + box[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / sides
    return label, torch.cat([shift, torch.log((box[:, 2:] - box[:, :2]) / sides)], 1)


def loss_of(logits, codes, objects, anchors):
    """The losses of RetinaNet: focal, with gamma as in NAS-FPN, and smooth L1."""
    with torch.no_grad():
        each = [matched(rows[:, :4], rows[:, 4].long(), anchors) for rows in objects]
        label, wanted = (torch.stack(part) for part in zip(*each, strict=True))
        targets = F.one_hot(label.clamp(min=-1) + 1, logits.shape[2] + 1)[..., 1:].to(logits.dtype)
        positive = label >= 0
        count = positive.sum().clamp(min=1)
    counted = label > -2
    logits, targets = logits[counted], targets[counted]
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = torch.sigmoid(logits)
    missing = torch.where(targets > 0, 1 - p, p)
    focal = torch.where(targets > 0, 0.25, 0.75) * missing**1.5 * entropy
    boxes = F.smooth_l1_loss(codes[positive], wanted[positive], beta=0.1, reduction="sum")
    return (focal.sum() + boxes) / count


def load(model: nn.Module, arrays) -> None:
    """The weights of the library, by name."""
    forms = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    names = {name.removeprefix("weights.").removesuffix(".value"): name for name in arrays if name[:8] == "weights."}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            alike = name.replace("last.bias", "bias")
            if not name.endswith("bias"):
                alike = name.replace("weight", "scale" if parameter.ndim == 1 else "kernel")
            array = arrays[names.pop(alike)]
            array = torch.from_numpy(np.ascontiguousarray(array.transpose(forms[array.ndim])))
            assert array.numel() == parameter.numel(), name
            parameter.copy_(array.view(parameter.shape))
    assert not names, names


def main() -> None:
    data, threads, form = sys.argv[1:]
    torch.set_num_threads(int(threads))
    form = getattr(torch, form)
    with np.load(data) as arrays:
        model = Detector(int(arrays["classes"])).to(memory_format=form)
        load(model, arrays)
        scaled = (arrays["images"] / np.float32(255) - arrays["mean"]) / arrays["std"]
        images = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))).float()
        objects = [torch.from_numpy(rows[rows[:, 4] >= 0]) for rows in arrays["objects"]]
        anchors = torch.from_numpy(arrays["anchors"])
    images = images.contiguous(memory_format=form)
    decayed = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim == 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others}]
    sgd = torch.optim.SGD(groups, RATE, MOMENTUM)
    for _ in sys.stdin:
        start, spent = time.perf_counter(), time.process_time()
        sgd.zero_grad()
        loss = loss_of(*model(images), objects, anchors)
        loss.backward()
        sgd.step()
        answer = {"loss": loss.item(), "seconds": time.perf_counter() - start, "end": time.time()}
        answer["cpu"] = time.process_time() - spent
        answer["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**answer, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()

"""The PyTorch half of `packed.py`: float convolutions of 3 x 3, timed when asked.

    PYTHON benchmarks/packed_torch.py

`packed.py` starts it on its own core. It needs PyTorch, and nothing of this library. One JSON request a line comes in,
one JSON answer goes out: seconds of the core, of a convolution, in the faster of both layouts of memory.
"""

import json
import sys
import time

import torch

FORMATS = (torch.contiguous_format, torch.channels_last)


def convolved(n: int, size: int, channels: int):
    """Convolutions of the same images, in each layout."""
    images = torch.randn(n, channels, size, size)
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def run(conv: torch.nn.Module, images: torch.Tensor):
        return lambda: conv(images)

    return [run(conv.to(memory_format=form), images.contiguous(memory_format=form)) for form in FORMATS]


def seconds(run, at_least: float) -> float:
    """Of the core, a call."""
    start, calls = time.process_time(), 0
    while time.process_time() - start < at_least:
        run()
        calls += 1
    return (time.process_time() - start) / calls


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    known = {}
    for line in sys.stdin:
        request = json.loads(line)
        if not request:
            answer = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        else:
            shape = tuple(request["shape"])
            known[shape] = known.get(shape) or convolved(*shape)
            answer = min(seconds(run, request["at_least"]) for run in known[shape])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

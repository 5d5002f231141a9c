"""The PyTorch half of `darts.py`: the reference's own search network and architect.

    PYTHON benchmarks/darts_torch.py DIR DATA THREADS ROUNDS

`darts.py` starts it. It needs PyTorch and NumPy, and nothing of this library. The network is imported from DIR/cnn, and
steps are taken as DIR/cnn/train_search.py does. DATA holds the weights, logits and images. To each
line that comes in goes one of JSON out: after a step, its seconds; after the last, the whole answer.
"""

import json
import resource
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

ARGS = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
RATE = 0.025


def main() -> None:
    directory, data, threads, rounds = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.Tensor.cuda = lambda self, *_: self  # the reference knows no other machine
    sys.path.insert(0, f"{directory}/cnn")
    from architect import Architect
    from model_search import Network

    arrays = np.load(data)
    loss = nn.CrossEntropyLoss()
    model = Network(int(arrays["width"]), 10, int(arrays["cells"]), loss)
    with torch.no_grad():
        parameters = list(model.parameters())
        assert len(parameters) == int(arrays["count"])
        for i, parameter in enumerate(parameters):
            parameter.copy_(torch.from_numpy(arrays[f"p{i}"]))
        for logits, name in zip(model.arch_parameters(), ("normal", "reduce"), strict=True):
            logits.copy_(torch.from_numpy(arrays[name]))
    train, valid = (
        (torch.from_numpy(arrays[f"{part}_x"]), torch.from_numpy(arrays[f"{part}_y"])) for part in ("t", "v")
    )
    architect = Architect(model, ARGS)
    sgd = torch.optim.SGD(model.parameters(), RATE, momentum=ARGS.momentum, weight_decay=ARGS.weight_decay)
    found = loss(model(valid[0]), valid[1])
    by_logits = torch.autograd.grad(found, model.arch_parameters())
    losses, seconds = [], []
    for _ in range(int(rounds)):
        sys.stdin.readline()
        start = time.perf_counter()
        architect.step(*train, *valid, RATE, sgd, unrolled=False)
        sgd.zero_grad()
        value = loss(model(train[0]), train[1])
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        sgd.step()
        losses.append(value.item())
        seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds[-1]), flush=True)
    answer = {"loss": found.item(), "gradient": torch.cat(by_logits).tolist(), "losses": losses, "seconds": seconds}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdin.readline()
    print(json.dumps({**answer, "memory": memory, "torch": torch.__version__}))


if __name__ == "__main__":
    main()

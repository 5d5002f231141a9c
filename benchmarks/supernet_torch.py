"""The PyTorch half of `supernet.py`: the reference's own supernet, driven by requests.

    PYTHON benchmarks/supernet_torch.py DIR THREADS DATA CLASSES

`supernet.py` starts it. It needs PyTorch and NumPy, and nothing of this library. One JSON request a line comes in,
one JSON answer goes out. The network is imported from DIR/src/Supernet; candidates are evaluated as
DIR/src/Search/tester.py does, and steps are taken as DIR/src/Supernet/train.py does, on data in memory.
"""

import contextlib
import copy
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn


def load_network(directory: Path, classes: int) -> nn.Module:
    sys.path.insert(0, str(directory / "src" / "Supernet"))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it is built
        from network import ShuffleNetV2_OneShot

        model = ShuffleNetV2_OneShot(input_size=32, n_class=classes)
    model.globalpool = nn.AdaptiveAvgPool2d(1)  # its own takes maps of 7 x 7, and nothing else
    model.dropout.p = 0.0  # so that both sides can be compared number by number
    return model


class Reference:
    def __init__(self, directory: Path, data: Path, classes: int):
        self.model = load_network(directory, classes)
        arrays = np.load(data)
        self.train = self._tensors(arrays, "train")
        self.valid = self._tensors(arrays, "valid")
        self.optimizer = self._sgd(self.model)

    @staticmethod
    def _sgd(model: nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.SGD([group for group in groups if group["params"]], lr=0.01, momentum=0.9, weight_decay=4e-5)

    @staticmethod
    def _tensors(arrays, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = (arrays[f"{part}_images"].astype(np.float32) / 255 - arrays["mean"]) / arrays["std"]
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
        return torch.from_numpy(images), torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64))

    def versions(self) -> dict:
        return {"torch": torch.__version__, "threads": torch.get_num_threads()}

    def save(self, file: str) -> dict:
        """The weights as they are now."""
        np.savez(file, **{name: value.numpy() for name, value in self.model.state_dict().items()})
        return {}

    def check(self, path: list[int], n: int, precision: str, file: str) -> dict:
        """Logits of the first images in training, and the weights after one step on them; what is trained goes on."""
        dtype, twin = getattr(torch, precision), copy.copy(self)
        twin.model = copy.deepcopy(self.model).to(dtype)
        twin.train = (self.train[0][:n].to(dtype), self.train[1][:n])
        twin.optimizer = self._sgd(twin.model)
        with torch.no_grad():
            logits = twin.model.train()(twin.train[0], path).numpy()
        twin.steps([path], [list(range(n))])
        weights = {name: value.numpy() for name, value in twin.model.state_dict().items()}
        np.savez(file, logits=logits, **weights)
        return {}

    @torch.no_grad()
    def evaluate(self, paths: list[list[int]], images: int, batch: int) -> dict:
        """Recalibration and validation of each candidate in turn."""
        errors, start = [], time.perf_counter()
        for path in paths:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean = torch.zeros_like(module.running_mean)
                    module.running_var = torch.ones_like(module.running_var)
            self.model.train()
            for i in range(0, images, batch):
                self.model(self.train[0][i : i + batch], path)
            self.model.eval()
            wrong, (inputs, labels) = 0, self.valid
            for i in range(0, len(labels), batch):
                found = self.model(inputs[i : i + batch], path).argmax(1)
                wrong += int((found != labels[i : i + batch]).sum())
            errors.append(wrong / len(labels))
        return {"seconds": time.perf_counter() - start, "errors": errors}

    def steps(self, paths: list[list[int]], indices: list[list[int]]) -> dict:
        """Training steps, each on a path and a batch of its own."""
        self.model.train()
        losses, start = [], time.perf_counter()
        for path, index in zip(paths, indices, strict=True):
            inputs, labels = self.train[0][index], self.train[1][index]
            output = self.model(inputs, path)
            loss = nn.functional.cross_entropy(output, labels, label_smoothing=0.1)
            self.optimizer.zero_grad()
            loss.backward()
            for parameter in self.model.parameters():
                if parameter.grad is not None and parameter.grad.sum() == 0:
                    parameter.grad = None
            self.optimizer.step()
            losses.append(loss.item())
        return {"seconds": time.perf_counter() - start, "losses": losses}


def main() -> None:
    directory, threads, data, classes = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    reference = Reference(Path(directory), Path(data), int(classes))
    for row in sys.stdin:
        request = json.loads(row)
        answer = getattr(reference, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Evaluators that misbehave on purpose; a module of its own, so that Ray workers can import it."""

import dataclasses
import os
import signal
import time

import numpy as np

from nas.evaluators.base import Evaluation


@dataclasses.dataclass(frozen=True)
class Misbehaving:
    """The first decision says what happens; `folder` remembers what has happened once already."""

    folder: str
    data: np.ndarray

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        deed, which = encoding
        mark = os.path.join(self.folder, f"{deed}-{which}")
        again = os.path.exists(mark)
        with open(mark, "a") as file:
            file.write("x")
        if (deed == 1 and not again) or deed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == 3:
            time.sleep(60)
        if deed == 4:
            raise ValueError("no good")
        return Evaluation({"error": which / 10, "writeable": float(self.data.flags.writeable)})

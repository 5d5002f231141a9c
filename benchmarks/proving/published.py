"""NAS-Bench-201 on its three datasets, as members of the family."""

from functools import partial
from typing import Any

import numpy as np

from nas.tables import read_table
from proving.family import Member


class Published(Member):
    """A member whose table is the same for every number: it was measured."""

    def table(self, number: int) -> Any:
        return self.score()  # type: ignore[call-arg]


def published(path: str) -> dict[str, Member]:
    table = read_table(path)
    space = table.searchable()

    def errors(dataset: str) -> np.ndarray:
        return np.asarray(table.error(dataset, "valid", 200), np.float32)

    names = {"nb201 c10": "cifar10", "nb201 c100": "cifar100", "nb201 in16": "imagenet16_120"}
    return {name: Published(name, space, None, partial(errors, dataset)) for name, dataset in names.items()}  # type: ignore[arg-type]

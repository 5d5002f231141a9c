"""What the columns of a table are, and how those of errors and of times are named."""

import dataclasses
import re
from typing import Any, Literal, get_args

from nas.plain import shown

Kind = Literal["error", "seconds", "cost", "score"]
Split = Literal["valid", "test"]
ERROR = re.compile(r"(?P<dataset>\w+)_(?P<split>valid|test)_error_e(?P<epochs>[1-9][0-9]{0,5})")
SECONDS = re.compile(r"(?P<dataset>\w+)_seconds_e(?P<epochs>[1-9][0-9]{0,5})")


@dataclasses.dataclass(frozen=True)
class Column:
    """What the numbers of a column are."""

    kind: Kind
    unit: str
    dataset: str | None = None
    split: Split | None = None
    epochs: int | None = None


def error_name(dataset: str, split: str, epochs: int) -> str:
    """The column of the errors on a dataset's part after so many epochs of training."""
    return f"{dataset}_{split}_error_e{epochs}"


def seconds_name(dataset: str, epochs: int) -> str:
    """The column of what a training for so many epochs and its validation took."""
    return f"{dataset}_seconds_e{epochs}"


def column_of(name: str) -> Column | None:
    """The column of errors or times whose name it is, None for any other."""
    if match := ERROR.fullmatch(name):
        split: Any = match["split"]
        return Column("error", "share", match["dataset"], split, int(match["epochs"]))
    if match := SECONDS.fullmatch(name):
        return Column("seconds", "s", match["dataset"], None, int(match["epochs"]))
    return None


def checked(name: str, column: Column) -> Column:
    """Raises ValueError where what describes a column is of another type than it must be."""
    texts = [column.unit, *([] if column.dataset is None else [column.dataset])]
    whole = column.epochs is None or (type(column.epochs) is int and 1 <= column.epochs <= 10**6)
    if column.kind not in get_args(Kind) or column.split not in (None, *get_args(Split)) or not whole:
        raise ValueError(f"column {name!r} is {shown(column)}, whose kind, split or epochs cannot be")
    if not all(isinstance(text, str) for text in (name, *texts)):
        raise ValueError(f"column {name!r} is {shown(column)}, whose unit and dataset must be texts")
    return column

"""A table: for every architecture of a space, named numbers that somebody measured.

The file is an uncompressed `.npz` without pickled objects, so that it is memory-mapped and opens at once:

| member | what it is |
|---|---|
| `encodings` | integers `[n, length]`, each architecture of the space exactly once |
| `header` | bytes of UTF-8 JSON: `format` (1), `space` (its name, or of one's own a mapping of `name` and fields), |
|          | `source` (who measured it), `columns` |
| one for each column | float32 `[n]` |

`columns` maps a column's name to its `kind` (`error`, a share in 0..1; `seconds`, what the evaluation takes; `cost`,
known without training; `score`, anything else), its `unit`, and where it depends on them `dataset`, `split` and
`epochs`. Errors are named `DATASET_SPLIT_error_eEPOCHS` and evaluation times `DATASET_seconds_eEPOCHS`. A row without
any error was not measured: no search proposes it.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from nas.errors import UsageError, unknown
from nas.plain import check_target, from_json, write_whole
from nas.tables.columns import Column, Split, checked, error_name
from spaces import SPACES, presets
from spaces.base import Encodings, Limits, Space, every, fingerprint, indices, place_values

FORMAT = 1
MOST_HEADER = 2**22  # bytes
MOST_COUNTED = 2**22  # architectures of a space, of which those are found that a table lacks
UNMEASURED = "unmeasured"  # a cost


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Columns whose row `i` is the architecture of index `i`: see `indices`."""

    path: str
    space_name: str
    source: str
    columns: Mapping[str, Column]
    values: Mapping[str, np.ndarray]  # float32 [n]
    space_fields: Mapping[str, Any] | None = None  # of a space of the user's own

    @functools.cached_property
    def space(self) -> Space:
        return _space_of(self.space_name, self.space_fields)

    @functools.cached_property
    def measured(self) -> np.ndarray:
        """Of each row whether it has an error at all: others are of architectures that nobody has measured."""
        errors = [self.values[name] for name, column in self.columns.items() if column.kind == "error"]
        gaps = np.isnan(np.stack(errors or [np.zeros(len(next(iter(self.values.values()))))]))
        return np.asarray(~gaps.all(axis=0))

    @property
    def limits(self) -> Limits:
        """What keeps a search within what was measured, by a cost of `searchable`."""
        return () if self.measured.all() else ((UNMEASURED, 0.0),)

    def within(self, names: Iterable[str]) -> "Table":
        """The table in which those architectures count as measured that have a number in each of these columns.

        Raises UsageError where none has.
        """
        names = [name for name in dict.fromkeys(names) if name in self.columns]
        gaps = np.isnan(np.stack([self.values[name] for name in names])).any(axis=0)
        if not (gaps & self.measured).any():
            return self
        errors = [name for name, column in self.columns.items() if column.kind == "error"]
        values = {**self.values, **{name: np.where(gaps, np.nan, self.values[name]) for name in errors}}
        found = dataclasses.replace(self, values=values)
        if not found.measured.any():
            raise UsageError(f"table={self.path!r}: no architecture has a number in each of {', '.join(names)}")
        return found

    def column(self, name: str) -> np.ndarray:
        """The numbers of a column. Raises UsageError for one that is absent or has gaps where there is an error."""
        if name not in self.columns:
            raise unknown(f"table={self.path!r}: column", name, self.columns)
        gaps = int(np.isnan(self.values[name][self.measured]).sum())
        if gaps:
            raise UsageError(f"table={self.path!r}: column {name!r} has {gaps} rows without a number")
        return self.values[name]

    def looked_up(self, dataset: str | None, epochs: int | None) -> tuple[str, int]:
        """The dataset and the epochs of the score that a search sees: those that are asked for, by default what alone
        the table has, or cifar10 and 12, else most epochs. Raises UsageError for what it has not."""
        errors = [c for c in self.columns.values() if c.kind == "error"]
        known = sorted({c.dataset for c in errors if c.dataset})
        if dataset is None:
            dataset = known[0] if len(known) == 1 else "cifar10"
            if dataset not in known:
                said = f"has several datasets, of which one must be named: {', '.join(known)}"
                raise UsageError(f"table={self.path!r} {said} (--table.dataset, in nas compare --dataset)")
        if dataset not in known:
            raise unknown(f"table={self.path!r}: dataset", dataset, known)
        allowed = sorted({c.epochs or 0 for c in self._errors(dataset)})
        if epochs is None:
            epochs = 12 if 12 in allowed else allowed[-1]
        if epochs not in allowed:
            raise UsageError(f"epochs={epochs} is not in table={self.path!r}; allowed: {', '.join(map(str, allowed))}")
        return dataset, epochs

    def error(self, dataset: str, split: str, epochs: int) -> np.ndarray:
        """The errors of a dataset's part after so many epochs of training."""
        dataset, epochs = self.looked_up(dataset, epochs)
        return self.column(error_name(dataset, split, epochs))

    def epochs(self, dataset: str) -> tuple[int, ...]:
        """How long architectures were trained for the validation errors of a dataset, ascending."""
        return tuple(sorted({c.epochs for c in self._errors(dataset) if c.epochs and c.split == "valid"}))

    def longest(self, dataset: str) -> dict[str, str]:
        """By its part, the column of the errors on a dataset after the longest training."""
        most = max(c.epochs or 0 for c in self._errors(dataset))
        names = {split: error_name(dataset, split, most) for split in get_args(Split)}
        return {split: name for split, name in names.items() if name in self.columns}

    def _errors(self, dataset: str) -> list[Column]:
        return [c for c in self.columns.values() if c.kind == "error" and c.dataset == dataset]

    def searchable(self, scores: str | None = None) -> "TabularSpace":
        """The space with the costs of this table, of which those that have gaps are left out, and where `scores` names
        a dataset with what the table tells of it without training, for predictors. Where architectures were not
        measured, they cost one `unmeasured`."""
        costs = {
            name: np.asarray(np.where(self.measured, self.values[name], np.nanmax(self.values[name])), np.float32)
            for name, column in self.columns.items()
            if column.kind == "cost" and not np.isnan(self.values[name][self.measured]).any()
        }
        if self.limits:
            costs[UNMEASURED] = (~self.measured).astype(np.float32)
        told = {name for name, column in self.columns.items() if column.kind == "score" and column.dataset == scores}
        return TabularSpace(self.space, costs, {name: ranked(self.values[name]) for name in sorted(told)})

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.space_name.encode())
        for name in sorted(self.values):
            digest.update(name.encode() + np.ascontiguousarray(self.values[name]).tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class TabularSpace:
    """A space as a table knows it: costs are looked up, and no two rows are the same architecture.

    Equal networks were trained more than once, and a published protocol tells them apart.
    """

    space: Space
    costs: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _key(self) -> tuple:
        both = (*sorted(self.costs.items()), *sorted(self.scores.items()))
        return self.space, tuple((name, hash(values.tobytes())) for name, values in both)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, TabularSpace) and self._key == other._key)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self.space.cardinalities

    def identity(self) -> dict:
        return self.space.identity()

    def canonical(self, encodings: Encodings) -> Encodings:
        return encodings

    def describe(self, encoding: np.ndarray) -> str:
        return self.space.describe(encoding)

    def parse(self, text: str) -> np.ndarray:
        return self.space.parse(text)

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        rows = indices(self, encodings)
        return {name: jnp.asarray(values)[rows] for name, values in self.costs.items()}

    def scores_of(self, encodings: Encodings) -> Float[Array, "n scores"]:
        rows = indices(self, encodings)
        return jnp.stack([jnp.asarray(values)[rows] for values in self.scores.values()], 1)

    def supernet(self, key: Any, *, affine: bool = False) -> Any:
        raise UsageError("a table holds no weights; name a task with images instead")

    def build(self, encoding: np.ndarray, key: Any) -> Any:
        return self.space.build(encoding, key)


def ranked(values: np.ndarray) -> np.ndarray:
    """The ranks of the numbers, from -1 to 1; 0 where there is none."""
    known = np.isfinite(values)
    found = np.zeros(len(values), np.float32)
    found[known] = 2 * values[known].argsort().argsort() / max(known.sum() - 1, 1) - 1
    return found


def perturbation(key: jax.Array, rows: Int[Array, "n"]) -> Float[Array, "n"]:
    """The noise of an evaluation: a standard normal number, the same whenever this seed, whose `NOISE` the key is,
    meets this row."""
    return jax.vmap(lambda row: jr.normal(jr.fold_in(key, row)))(rows)


def read(path: str, arrays: dict[str, np.ndarray], expected: str | None = None) -> Table:
    """Raises UsageError for what is no table, or one of another space than is expected."""
    if "header" not in arrays or "encodings" not in arrays:
        raise UsageError(f"table={path!r} is not a table: it has no member 'header' or no 'encodings'")
    try:
        if arrays["header"].size > MOST_HEADER:
            raise ValueError(f"it is longer than {MOST_HEADER} bytes")
        header = from_json(bytes(np.asarray(arrays["header"], np.uint8)).decode())
        columns = {name: checked(name, Column(**fields)) for name, fields in header["columns"].items()}
        version, source = header["format"], header["source"]
        space: Any = header["space"]
        fields = dict(space) if isinstance(space, dict) else None
        space_name: Any = space if fields is None else fields.pop("name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"table={path!r} has a header that is damaged: {error}") from error
    if expected is not None and space_name != expected:
        raise UsageError(f"space={expected!r} is not that of table={path!r}, which is {space_name!r}")
    if not isinstance(source, str):
        raise UsageError(f"table={path!r} has a header that is damaged: its source is no text")
    if version != FORMAT:
        raise UsageError(f"table={path!r} is of format {version}; allowed: {FORMAT}")
    for name in columns:
        if name not in arrays:
            raise UsageError(f"table={path!r} has no member for its column {name!r}")
    values = {name: arrays[name] for name in columns}
    table = make_table(path, space_name, source, columns, arrays["encodings"], values, fields)
    if header.get("fingerprint", fingerprint(table.space)) != fingerprint(table.space):
        raise UsageError(f"space={space_name!r} has other fields, or other code, than when table={path!r} was built")
    return table


def make_table(
    path: str,
    space_name: str,
    source: str,
    columns: Mapping[str, Column],
    encodings: np.ndarray,
    values: Mapping[str, np.ndarray],
    space_fields: Mapping[str, Any] | None = None,
) -> Table:
    """Checked, and in the order of indices. Raises UsageError for rows that are not the architectures of the space."""
    if not isinstance(space_name, str) or (space_fields is None and space_name not in SPACES):
        raise unknown(f"table={path!r}: space", space_name, SPACES)
    order = _order(path, _space_of(space_name, space_fields), encodings)
    if not columns:
        raise UsageError(f"table={path!r} has no columns")
    sorted_values = {}
    for name, column in values.items():
        if column.shape != (len(order),):
            raise UsageError(f"table={path!r}: column {name!r}={list(column.shape)} must be [{len(order)}]")
        if column.dtype.kind not in "fiub":
            raise UsageError(f"table={path!r}: column {name!r} has dtype {column.dtype}; allowed: numbers")
        with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and refused
            column = np.asarray(column, np.float32)
        sorted_values[name] = column[order]
        if columns[name].kind == "seconds" and not (np.isnan(column) | ((column > 0) & np.isfinite(column))).all():
            raise UsageError(f"table={path!r}: column {name!r} must hold times above 0")
        if columns[name].kind == "error" and np.nanmax(np.abs(column - 0.5), initial=0) > 0.5:
            raise UsageError(f"table={path!r}: column {name!r} must hold errors, shares in 0..1")
        if np.isinf(column).any():
            raise UsageError(f"table={path!r}: column {name!r} must hold finite numbers, or NaN where there is none")
    return Table(path, space_name, source, columns, sorted_values, space_fields)


def _space_of(name: str, fields: Mapping[str, Any] | None) -> Space:
    """The space of a table: the first preset of ours, or one of the user's own that this process was told of."""
    if fields is None:
        return next(iter(presets(name).values()))
    from nas.config import build_space

    return build_space({"name": name, **fields}, given=False)


def _order(path: str, space: Space, encodings: np.ndarray) -> np.ndarray:
    sizes, total = np.array(space.cardinalities), math.prod(space.cardinalities)
    if encodings.ndim != 2 or encodings.shape[1] != len(sizes) or encodings.dtype.kind not in "iu":
        shape = f"{encodings.dtype} {list(encodings.shape)}"
        raise UsageError(f"table={path!r}: encodings={shape} must be integers [n, {len(sizes)}]")
    if len(encodings) > 2 * total:  # that many rows are copied
        raise UsageError(f"table={path!r} has {len(encodings)} rows, where the space has {total} architectures")
    rows = np.asarray(encodings, np.int64)
    outside = ((rows < 0) | (rows >= sizes)).any(1)
    if outside.any():
        i = int(outside.argmax())
        raise UsageError(f"table={path!r}: encodings[{i}]={rows[i].tolist()} is not in the space {space.cardinalities}")
    if total > max(len(rows), MOST_COUNTED):
        raise UsageError(f"table={path!r} has {len(rows)} rows, where the space has {total} architectures")
    where = rows @ place_values(space)
    counts = np.bincount(where, minlength=int(sizes.prod()))
    if counts.max() > 1:
        twice = np.flatnonzero(where == counts.argmax())[:2].tolist()
        raise UsageError(f"table={path!r}: encodings[{twice[0]}] and encodings[{twice[1]}] are the same architecture")
    if counts.min() < 1:
        missing = np.unravel_index(int(counts.argmin()), space.cardinalities)
        lost = int((counts == 0).sum())
        row = [int(choice) for choice in missing]
        raise UsageError(f"table={path!r} lacks {lost} architectures of the space, such as {row}")
    return np.argsort(where)


def write_table(path: str | Path, table: Table) -> None:
    """Writes the open format, whole or not at all."""
    check_target(f"out={str(path)!r}", path)
    fields = {
        name: {k: v for k, v in dataclasses.asdict(c).items() if v is not None} for name, c in table.columns.items()
    }
    space = table.space_name if table.space_fields is None else {"name": table.space_name, **table.space_fields}
    header = {"format": FORMAT, "space": space, "source": table.source, "columns": fields}
    if table.space_fields is not None:
        header["fingerprint"] = fingerprint(table.space)  # of code that may change
    encodings = every(table.space)
    assert encodings is not None  # a table holds every architecture of its space
    members = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "encodings": encodings.astype(np.min_scalar_type(max(table.space.cardinalities) - 1)),
        **{name: np.asarray(values, np.float32) for name, values in table.values.items()},
    }
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **members)
    write_whole(Path(path), data.getvalue())

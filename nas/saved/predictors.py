"""Predictors as folders that another job, machine or person can use: a JSON card, and arrays as safetensors.

`card.json` holds `format` (1); `kind` and `settings` of the predictor; `space` (its name and fields) and its
`fingerprint`; `task`, `objective` and `unit`; `rows`, how many each fit had, the earliest first, and `digest`, the
sha256 of the last ones; `quality` on rows that were held out; `shares`, what each kind counts in a predictor that is
made of several; and `versions`. `predictor.safetensors` holds the parameters by name, and in its note the sha256 of the
card.

Nothing else may be in the folder. What the arrays must look like follows from the card: loading works out their names,
shapes and types without computing anything, and takes nothing that differs.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nas.config import build_predictor, build_space, fields_of
from nas.errors import UsageError, unwritable
from nas.plain import UNFINISHED, from_json, read_bounded, shown, write_whole
from nas.saved import checkpoint
from nas.streams import WITHHELD, generator
from nas.training.compilation import in_order
from predictors.base import Composed, Predictor
from spaces.abilities import networks
from spaces.base import Encodings, Space, fingerprint

FORMAT = 1
CARD, ARRAYS = "card.json", "predictor.safetensors"
CHUNK = 16_384  # rows that are scored at once
HELD_OUT = 0.2  # the share of rows by which quality is measured
MOST_BYTES = 2**22  # of a card
MOST_FITS = 100  # one after another
FEWEST = 10  # rows of which some are held out
FIELDS = {"kind": str, "settings": dict, "space": dict, "fingerprint": str, "rows": list, "digest": str}
FIELDS |= {"task": str, "objective": str, "unit": str, "quality": dict, "versions": dict}


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A predictor with its parameters, and the card that says what they are."""

    card: dict[str, Any]
    predictor: Predictor
    params: Any

    @property
    def space(self) -> Space:
        return self.params.space

    def predict(
        self, space: Space, encodings: Encodings | np.ndarray
    ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Mean and standard deviation of the objective, of as many architectures as there are.

        Raises UsageError for another space than the one it was fitted on.
        """
        check_space(self.card, space)
        rows = np.asarray(encodings, np.int32)
        sizes = np.asarray(space.cardinalities)
        if rows.ndim != 2 or rows.shape[1] != len(sizes) or ((rows < 0) | (rows >= sizes)).any():
            raise UsageError(f"encodings={list(rows.shape)} must be [n, {len(sizes)}], each choice of the space")
        size = min(CHUNK, max(len(rows), 1))
        parts = []
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            filled = np.concatenate([part, np.zeros((size - len(part), rows.shape[1]), np.int32)])  # one program
            parts.append(
                [np.asarray(each)[: len(part)] for each in _programs()[1](self.predictor, self.params, filled)]
            )
        mean, deviation = zip(*parts, strict=True) if parts else ((np.zeros(0),), (np.zeros(0),))
        found = np.concatenate(mean), np.concatenate(deviation)
        if not all(np.isfinite(each).all() for each in found):
            raise UsageError(f"predictor={self.card['kind']!r} gives NaN or infinity: its parameters are too large")
        return found


@functools.cache
def _programs() -> tuple[Any, Any]:
    def fit(predictor: Predictor, space: Space, rows: Any, targets: Any, start: Any) -> Any:
        return predictor.fit(space, rows, targets, start)

    def predict(predictor: Predictor, params: Any, rows: Any) -> Any:
        return predictor.predict(params, rows)

    options = in_order()
    return (
        jax.jit(fit, static_argnums=(0, 1), compiler_options=options),
        jax.jit(predict, static_argnums=0, compiler_options=options),
    )


def check_space(card: dict[str, Any], space: Space, what: str = "predictor") -> None:
    if fingerprint(space) != card["fingerprint"]:
        ours, theirs = card["space"].get("name"), type(space).__name__
        raise UsageError(
            f"{what} of space {ours!r} (fingerprint {card['fingerprint']}) cannot score architectures of "
            f"{theirs} (fingerprint {fingerprint(space)})"
        )


def described(name: str, space: Any) -> dict[str, Any]:
    """A space as plain data, which `nas.config.build_space` reads."""
    return {"name": name, **json.loads(json.dumps(fields_of(space)))}


def fit(
    kind: str,
    predictor: Predictor,
    space: dict[str, Any],
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    start: Fitted | None = None,
    task: str = "",
    objective: str = "error",
    unit: str = "share",
) -> Fitted:
    """Fits on all rows, after one on four fifths of them has said how well the others are told.

    `space` is plain data, see `described`. Raises UsageError where there is too little to learn from, or where `start`
    is of another kind or space.
    """
    bound = build_space(space, given=False)
    finite = np.isfinite(targets)
    rows, targets = np.asarray(rows, np.int32)[finite], np.asarray(targets, np.float32)[finite]
    if len(rows) < 2:
        raise UsageError(f"rows={len(rows)} are too few for a predictor, which takes 2 evaluated architectures or more")
    if start is not None:
        check_space(start.card, bound)
        if start.card["kind"] != kind or start.predictor != predictor:
            raise UsageError(
                f"warm-start={start.card['kind']!r} with its settings can only be followed by the same, not by {kind!r}"
            )
    how = _programs()[0], predictor, bound, jnp.asarray(rows)
    before = None if start is None else start.params
    card = {
        "format": FORMAT,
        "kind": kind,
        "settings": json.loads(json.dumps(fields_of(predictor))),
        "space": space,
        "fingerprint": fingerprint(bound),
        "task": task,
        "objective": objective,
        "unit": unit,
        "rows": [*([] if start is None else start.card["rows"]), len(rows)],
        "digest": hashlib.sha256(rows.tobytes() + targets.tobytes()).hexdigest(),
        "quality": {},
        "versions": {name: importlib.metadata.version(name) for name in ("nas-engine", "jax", "flax", "numpy")},
    }
    network = _numbered(np.asarray(networks(bound).canonical(jnp.asarray(rows))))
    if (count := network.max() + 1) >= FEWEST:
        held = (generator(0, WITHHELD).permutation(count) < HELD_OUT * count)[network]
        trial = Fitted(card, predictor, _fitted(*how, np.where(held, np.nan, targets), before))
        card["quality"] = quality(*trial.predict(bound, rows[held]), targets[held])
    params = _fitted(*how, targets, before)
    if isinstance(predictor, Composed):
        card["shares"] = predictor.shares(params)
    return Fitted(card, predictor, params)


def _numbered(networks: np.ndarray) -> np.ndarray:
    """Of each row the number of its network, in the order in which they come first: one is held out with all rows of
    it, else the predictor would know what it is asked."""
    _, first, same = np.unique(networks, axis=0, return_index=True, return_inverse=True)
    return first.argsort().argsort()[same.ravel()]


def _fitted(program: Any, predictor: Predictor, space: Space, rows: Any, targets: np.ndarray, start: Any) -> Any:
    try:
        return jax.block_until_ready(program(predictor, space, rows, jnp.asarray(targets, jnp.float32), start))
    except ImportError as error:  # of an extra that is not installed
        raise UsageError(str(error)) from error


def quality(mean: np.ndarray, deviation: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How well predictions order architectures, how much worse than the best their ten favourites are, and how often
    the truth lies within one and two standard deviations (68 % and 95 % where these are right)."""
    from scipy import stats

    favourites = truth[np.argsort(mean, kind="stable")[:10]]
    off = np.abs(mean - truth) / np.maximum(deviation, 1e-12)
    found = {
        "rows": float(len(truth)),
        "kendall_tau": float(np.asarray(stats.kendalltau(mean, truth))[0]),
        "spearman": float(np.asarray(stats.spearmanr(mean, truth))[0]),
        "top_10_regret": float(favourites.min() - truth.min()),
        "within_1_std": float((off <= 1).mean()),
        "within_2_std": float((off <= 2).mean()),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def write(fitted: Fitted, folder: Path) -> None:
    """Raises UsageError where the folder holds something already, or cannot be written. The card comes last: without
    it, what is there was cut short, and is written again."""
    card = json.dumps(fitted.card, indent=2, sort_keys=True) + "\n"
    arrays = {name: np.asarray(leaf) for name, leaf in _named(fitted.params)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.iterdir()}
        begun = {name for name in there if name.endswith(UNFINISHED) and name.startswith((f"{CARD}.", f"{ARRAYS}."))}
        cut_short = begun | (there & {ARRAYS})
        if there - cut_short:
            raise UsageError(f"out={str(folder)!r} is not empty")
        for name in cut_short:
            (folder / name).unlink()
    except OSError as error:
        raise unwritable(f"out={str(folder)!r}", error) from error
    checkpoint.write(folder / ARRAYS, arrays, {"card": hashlib.sha256(card.encode()).hexdigest()})
    write_whole(folder / CARD, card.encode())


def load(folder: str | Path) -> Fitted:
    """Raises UsageError, in one line, for what is damaged, was changed, or is not a predictor of this library."""
    folder = Path(folder)
    _check_files(folder)
    text = read_bounded(f"{folder / CARD}", folder / CARD, MOST_BYTES, "card")
    try:
        card = from_json(text)
    except ValueError as error:
        raise UsageError(f"{folder / CARD} cannot be read: {error}") from error
    _check_card(folder / CARD, card)
    try:
        predictor = build_predictor({"name": card["kind"], **card["settings"]}, given=False)
        space = build_space(card["space"], given=False)
    except (UsageError, ValueError, TypeError) as error:
        raise UsageError(f"{folder / CARD}: {error}") from error
    if fingerprint(space) != card["fingerprint"]:
        raise UsageError(
            f"{folder / CARD}: fingerprint={card['fingerprint']!r} is not that of its space, {fingerprint(space)!r}: "
            "it was written for another version of the encoding"
        )
    arrays, note = checkpoint.read(folder / ARRAYS)
    if note.get("card") != hashlib.sha256(text).hexdigest():
        raise UsageError(f"{folder / ARRAYS} does not belong to {folder / CARD}: one of them was changed")
    return Fitted(card, predictor, _assembled(folder / ARRAYS, predictor, space, card["rows"], arrays))


def _check_files(folder: Path) -> None:
    try:
        found = {entry.name: entry for entry in os.scandir(folder)}
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    for name in (CARD, ARRAYS):
        if name not in found:
            raise UsageError(f"{folder} is not a predictor: it has no {name}")
    for name, entry in found.items():
        if name not in (CARD, ARRAYS) or not entry.is_file(follow_symlinks=False):
            raise UsageError(f"{folder} holds {name!r}, which is no part of a predictor, and is not read")


def _check_card(path: Path, card: Any) -> None:
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        version = card.get("format") if isinstance(card, dict) else None
        raise UsageError(f"{path}: format={version!r} is not one of {FORMAT}")
    for name, kind in FIELDS.items():
        if not isinstance(card.get(name), kind):
            raise UsageError(f"{path}: {name}={card.get(name)!r} must be a {kind.__name__}")
    fits = card["rows"]
    if not 1 <= len(fits) <= MOST_FITS or not all(type(n) is int and 2 <= n <= 10**6 for n in fits):
        raise UsageError(f"{path}: rows={shown(fits)} must be 1 to {MOST_FITS} numbers in 2..1000000")


def _assembled(
    path: Path, predictor: Predictor, space: Space, rows: Sequence[int], arrays: dict[str, np.ndarray]
) -> Any:
    """The parameters, of the shapes that such fits give."""
    made: dict[str, Any] = {}

    def fits(tables: Any) -> list[Any]:
        params = None
        for encodings, targets in tables:
            params = predictor.fit(space, encodings, targets, params)
        made["structure"], named = jax.tree.structure(params), _named(params)
        made["names"] = [name for name, _ in named]
        return [leaf for _, leaf in named]

    length = len(space.cardinalities)
    kinds = (jnp.int32, (length,)), (jnp.float32, ())
    tables = [tuple(jax.ShapeDtypeStruct((n, *shape), dtype) for dtype, shape in kinds) for n in rows]
    shapes = jax.eval_shape(fits, tables)
    expected = list(zip(made["names"], shapes, strict=True))
    for name, leaf in expected:
        if name not in arrays:
            raise UsageError(f"{path} lacks the array {name!r}")
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            there, here = (f"{each.dtype} {list(each.shape)}" for each in (found, leaf))
            raise UsageError(f"{path}: {name}={there} must be {here}")
        if not np.isfinite(found).all():
            raise UsageError(f"{path}: {name} holds NaN or infinity")
    extra = sorted(arrays.keys() - {name for name, _ in expected})
    if extra:
        raise UsageError(f"{path} has the array {extra[0]!r}, which is no part of a {type(predictor).__name__}")
    leaves = [jnp.asarray(arrays[name]) for name, _ in expected]
    return jax.tree.unflatten(made["structure"], leaves)


def _named(params: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)]

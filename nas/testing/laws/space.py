"""The laws of search spaces: see `spaces.base.Space`."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.testing.laws import abilities, mixing
from nas.testing.laws.base import calls, first, foreseen, frozen, has, law
from nas.testing.laws.names import SPACE, check_names
from nas.testing.laws.network import check_network
from spaces.abilities import Mixable, Prunable, shares_weights
from spaces.base import Encodings, Space, fingerprint, sample

MOST_CHOICES = 2**31 - 1  # of a decision: an encoding is of int32


@foreseen()
def check_space(space: Space, *, samples: int = 64, networks: bool = True, seed: int = 0) -> None:
    """The laws of a search space, on random architectures. With `networks` two of them are also built and called, and
    the supernet where there is one.

    Raises Broken.
    """
    frozen(space)
    has(space, "cardinalities identity canonical describe parse cost build supernet")
    sizes = space.cardinalities
    whole = isinstance(sizes, tuple) and len(sizes) > 0 and all(type(size) is int for size in sizes)
    whole = whole and all(1 <= size <= MOST_CHOICES for size in sizes)
    law(whole, f"cardinalities is a tuple of integers in 1..{MOST_CHOICES}", type(space).__name__, sizes)
    check_names(space, SPACE)
    plain, again = (calls("identity() is plain data", space, _plain, space) for _ in range(2))
    law(isinstance(plain, dict), "identity() is a mapping", space, plain)
    law(plain == again, "identity() is the same each time", plain, again)
    fingerprint(space)

    rows = sample(space, jr.key(seed), samples)
    canonical = _canonical(space, rows)
    _check_costs(space, rows, canonical)
    _check_texts(space, np.asarray(canonical)[:16])
    abilities.check(space, canonical[:16], seed)
    if isinstance(space, Mixable):
        mixing.check(space, canonical[:16])
    if networks:
        _check_networks(space, np.asarray(canonical)[:2], seed)


def _plain(space: Space) -> Any:
    return json.loads(json.dumps(space.identity(), sort_keys=True))


def _canonical(space: Space, rows: Encodings) -> Encodings:
    found = calls("canonical works in a jitted function", rows[0], jax.jit(space.canonical), rows)
    kept = found.shape == rows.shape and found.dtype == jnp.int32
    law(kept, "canonical keeps shape and type (int32)", rows[0], f"{found.dtype}{found.shape}")
    inside = ((found >= 0) & (found < jnp.asarray(space.cardinalities)[None])).all(1)
    first(inside, "canonical rows are choices of the space", rows, found)
    first((space.canonical(found) == found).all(1), "canonical is idempotent", rows, found)
    return found


def _check_costs(space: Space, rows: Encodings, canonical: Encodings) -> None:
    jitted = jax.jit(space.cost)
    costs, cheapest = (calls("cost works in a jitted function", rows[0], jitted, each) for each in (rows, canonical))
    by_name = isinstance(costs, dict) and all(isinstance(name, str) for name in costs)
    law(by_name, "cost gives numbers by name", rows[0], type(costs).__name__)
    for name, values in costs.items():
        law(values.shape == (len(rows),), f"cost gives a number of {name!r} for each row", len(rows), values.shape)
        first(jnp.isfinite(values), f"the cost {name!r} is finite", rows, values)
        first(cheapest[name] <= values, f"the canonical row is no dearer in {name!r}", rows, cheapest[name])


def _check_texts(space: Space, rows: np.ndarray) -> None:
    sizes = space.cardinalities
    for row in rows:
        text = calls("describe takes an encoding", row, space.describe, row)
        law(isinstance(text, str) and "\n" not in text, "describe gives one line of text", row, text)
        law(space.describe(row) == text, "describe writes the same each time", row, text)
        back = np.asarray(calls("parse reads what describe writes", text, space.parse, text))
        law(_is_row(back, sizes), "parse gives choices of the space", text, back)
        same = space.canonical(jnp.asarray(back, jnp.int32)[None])[0]
        law(np.array_equal(same, row), "parse reads back what describe writes", text, back)
    for odd in ("", "no architecture", "(9,9,9,9,9,9,9,9)"):
        law(_refused(space, odd), "parse raises ValueError for what is no architecture", repr(odd), "no ValueError")
    for text, found in _beyond(space, rows[0]):
        law(_is_row(found, sizes), "parse refuses choices out of range", text, found)


def _is_row(found: np.ndarray, sizes: tuple[int, ...]) -> bool:
    return found.shape == (len(sizes),) and bool(((found >= 0) & (found < np.asarray(sizes))).all())


def _beyond(space: Space, row: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Of rows with a choice out of range what they are called, and what parse makes of that where it takes it."""
    for i, size in enumerate(space.cardinalities[:16]):
        for choice in (-1, size):
            odd = row.astype(np.int64)
            odd[i] = choice
            with contextlib.suppress(Exception):  # such rows need no description, and parse should refuse it
                text = space.describe(odd)
                yield text, np.asarray(space.parse(text))


def _refused(space: Space, text: str) -> bool:
    try:
        space.parse(text)
    except ValueError:
        return True
    except Exception:
        return False
    return False


def check_build(space: Space, row: np.ndarray, seed: int = 0) -> None:
    """That the network of one architecture can be built and trained. Raises Broken."""
    network = calls("build gives a network", row, space.build, row, jr.key(seed))
    params = check_network(space, "build", network, row, (), seed)
    price = space.cost(jnp.asarray(row)[None])
    if params is not None and "params" in price:
        claimed = float(price["params"][0])
        right = abs(claimed - params) <= 1e-3 * params
        law(right, "the cost 'params' is that of the built network", row, f"{claimed:.0f}, built {params}")


def _check_networks(space: Space, rows: np.ndarray, seed: int) -> None:
    for row in rows:
        check_build(space, row, seed)
    if not shares_weights(space):
        return
    law_of_supernets = "supernet gives a network where supernets is not False"
    network = calls(law_of_supernets, space, space.supernet, jr.key(seed))
    for row in rows:
        check_network(space, "supernet", network, row, jnp.asarray(row), seed)
    any_space: Any = space
    if isinstance(any_space, Prunable):
        pruned = calls("pruned gives a network", rows[0], any_space.pruned, network, rows[0])
        check_network(space, "pruned", pruned, rows[0], (), seed)
    if isinstance(space, Mixable):
        check_network(space, "supernet", network, rows[0], space.edge_ops(jnp.asarray(rows[:1]))[0], seed)
        check_network(space, "supernet", network, rows[0], mixing.of(space, rows[0]), seed)

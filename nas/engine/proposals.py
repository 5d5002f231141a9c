"""What a strategy proposes is checked before anything is recorded: it may be of the user's own."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from nas.errors import UsageError
from spaces.base import Encodings, Limits, Space, costs, feasible
from spaces.callbacks import check
from strategies.base import Drawn, Proposals


def refused(strategy: Any, what: str) -> UsageError:
    return UsageError(f"strategy={type(strategy).__name__!r} proposes {what}")


def check_form(strategy: Any, proposed: Any, n: int, length: int) -> None:
    """What is known of proposals while the program that makes them is traced. Raises UsageError."""
    if not isinstance(proposed, Proposals):
        raise refused(strategy, f"{type(proposed).__name__}, not a strategies.base.Proposals")
    forms = {"encodings": (proposed.encodings, "int32", (n, length)), "budgets": (proposed.budgets, "int32", (n,))}
    if proposed.drawn is not None:
        drawn: Any = proposed.drawn
        if not isinstance(drawn, Drawn):
            raise refused(strategy, f"drawn={type(drawn).__name__}, not a strategies.base.Drawn")
        forms["drawn.rows"] = (drawn.rows, "int32", (n, length))
        forms["drawn.log_probability"] = (drawn.log_probability, "float32", (n,))
    for name, (array, kind, shape) in forms.items():
        found = str(getattr(array, "dtype", type(array).__name__)), getattr(array, "shape", ())
        if found != (kind, shape):
            raise refused(strategy, f"{name} of {found[0]}{list(found[1])}, which must be {kind}{list(shape)}")


def are_choices(space: Space, rows: Encodings) -> Bool[Array, "n"]:
    """Whether each row is an architecture of the space."""
    return ((rows >= 0) & (rows < jnp.asarray(space.cardinalities)[None])).all(1)


def check_values(strategy: Any, proposed: Proposals, space: Space, limits: Limits) -> None:
    """What is known of proposals once they are made. Raises UsageError."""
    rows, budgets = np.asarray(proposed.encodings), np.asarray(proposed.budgets)
    for row in rows[((rows < 0) | (rows >= np.asarray(space.cardinalities))).any(1)]:
        said = f"whose choices must be at least 0 and below {list(space.cardinalities)}"
        raise refused(strategy, f"encoding={row.tolist()}, {said}")
    for budget in budgets[budgets < 0]:
        raise refused(strategy, f"budget={budget}, which must be at least 0")
    legal = _feasible()(space, proposed.encodings, limits) if limits else np.ones(len(rows), bool)
    check()  # a cost may have failed
    for row in rows[~np.asarray(legal)]:
        has, said = beside_limits(space, row.tolist(), limits)
        raise refused(strategy, f"encoding={row.tolist()} of {has}, which must keep {said}")


def beside_limits(space: Space, encoding: Sequence[int], limits: Limits) -> tuple[str, str]:
    """What an architecture has of what is limited, and the limits, in words."""
    has = ", ".join(f"{name}={each:g}" for name, each in costs(space, encoding).items() if name in dict(limits))
    return has, " and ".join(f"{name} <= {most:g}" for name, most in limits)


@functools.cache
def _feasible() -> Any:
    return jax.jit(feasible, static_argnums=(0, 2))

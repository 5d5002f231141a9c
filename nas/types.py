"""The records that pass between a strategy and the loop."""

from typing import Any, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Float, Int

from spaces.base import Encodings, Limits, Space


@struct.dataclass
class Proposals:
    """Architectures to evaluate. As `pending`, rows of -1 are empty slots, so that the shape is fixed."""

    encodings: Encodings
    budgets: Int[Array, "n"]  # epochs of training an evaluation may spend; 0 where it trains nothing


@struct.dataclass
class Observations:
    """Evaluated architectures, in the order of their trials."""

    encodings: Encodings
    budgets: Int[Array, "n"]
    objectives: Float[Array, "n m"]  # minimised; NaN marks a failed trial


@runtime_checkable
class Strategy(Protocol):
    """A frozen dataclass of hyperparameters with pure functions over a pytree state.

    Laws, for every strategy:

    1. `ask` reads, `tell` writes: the state is a fold of the log. Two tells equal one tell of both, concatenated.
    2. `tell` accepts any subset, failures, and points that were never asked.
    3. Every asked point is either observed or pending; counters are derived, never remembered.
    4. All randomness comes from the key of `ask`.
    5. Objectives are minimised.
    """

    @property
    def generation(self) -> int:
        """How many trials are asked at once, after all earlier ones were told; 1 for a steady-state strategy."""
        ...

    def init(self, space: Space, limits: Limits = ()) -> Any:
        """The state that has observed nothing. Every proposal keeps the hard limits."""
        ...

    def ask(self, state: Any, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        """`n` architectures to evaluate next."""
        ...

    def tell(self, state: Any, observed: Observations) -> Any:
        """The state that has also observed these."""
        ...

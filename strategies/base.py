"""The records that pass between a strategy and the loop."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from spaces.abilities import Mixing
from spaces.base import Encodings, Limits, Space


@struct.dataclass
class Drawn:
    """How a policy drew its proposals. The log keeps it, and what is observed brings it back to the strategy."""

    rows: Encodings  # before they were made canonical
    log_probability: Float[Array, "n"]  # of these rows, under the policy that drew them


@struct.dataclass
class Proposals:
    """Architectures to evaluate. As `pending`, rows of -1 are empty slots, so that the shape is fixed."""

    encodings: Encodings
    budgets: Int[Array, "n"]  # epochs of training an evaluation may spend; 0 where it trains nothing
    drawn: Drawn | None = None  # of strategies that learn from how they drew


def drawn_as(proposals: Proposals, rows: Encodings) -> Drawn | None:
    """How a policy drew these rows, which are some of what it proposed; of others it did not draw them, and their
    probability is NaN."""
    drawn = proposals.drawn
    if drawn is None:
        return None
    same = (proposals.encodings[None] == rows[:, None]).all(-1)
    found, place = same.any(1), same.argmax(1)
    log_probability = jnp.where(found, drawn.log_probability[place], jnp.nan)
    return Drawn(jnp.where(found[:, None], drawn.rows[place], rows), log_probability)


@struct.dataclass
class Observations:
    """Evaluated architectures, in the order of their trials."""

    encodings: Encodings
    budgets: Int[Array, "n"]
    objectives: Float[Array, "n m"]  # minimised; NaN marks a failed trial
    drawn: Drawn | None = None  # None where nobody drew them, such as points of another run


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


@runtime_checkable
class Sized(Protocol):
    """A strategy of which some fields follow from how many trials there will be, where the user does not say them."""

    def for_trials(self, trials: int) -> Any:
        """The strategy with these fields filled in."""
        ...


def with_trials(strategy: Any, trials: int) -> Any:
    """The strategy as it searches with so many trials."""
    if not isinstance(strategy, Sized):
        return strategy
    sized = strategy.for_trials(trials)
    if type(sized) is not type(strategy):
        names = [type(each).__name__ for each in (strategy, sized)]
        raise TypeError(f"for_trials({trials}) must give a {names[0]}, not a {names[1]}")
    return sized


@runtime_checkable
class Budgeted(Protocol):
    """A strategy that asks for evaluations of several budgets, the fields that say which being the user's to set."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """In epochs, ascending; empty where they are those of the evaluator."""
        ...

    @property
    def eta(self) -> int:
        """One of so many evaluations with a budget goes on to the next."""
        ...


@runtime_checkable
class Waiting(Protocol):
    """A strategy some of whose trials need to know what all before them gave, however many may be under way at once."""

    def needs(self, number: int) -> int:
        """How many trials, from the first on, must have been told before the trial of this number is asked for: in
        0..number."""
        ...


def needs_of(strategy: Any, number: int) -> int:
    """How many trials a strategy needs to know before it is asked for the trial of this number; most need none."""
    return strategy.needs(number) if isinstance(strategy, Waiting) else 0


def budgets_of(strategy: Any) -> tuple[int, ...]:
    """The budgets that a strategy asks for; of most strategies none."""
    return strategy.budgets if isinstance(strategy, Budgeted) else ()


@runtime_checkable
class Granting(Protocol):
    """A strategy that says how long its evaluations train, where all of them are of one budget."""

    @property
    def budget(self) -> int:
        """In epochs; 0 where it leaves that to the evaluator."""
        ...


def budget_of(strategy: Any) -> int:
    """The budget of an evaluation that is not cut short; 0 where the strategy has none in mind."""
    return max(budgets_of(strategy), default=strategy.budget if isinstance(strategy, Granting) else 0)


@runtime_checkable
class Large(Protocol):
    """A strategy whose programs are large enough, so that searches of several seeds are slower side by side."""

    @property
    def seeds_at_once(self) -> int:
        """How many searches of a study run side by side."""
        ...


@runtime_checkable
class Learns(Protocol):
    """A strategy that learns by a predictor, which can be saved."""

    @property
    def predictor(self) -> Any: ...


@runtime_checkable
class GoesOn(Learns, Protocol):
    """One that can go on from what a predictor of its kind has learned elsewhere."""

    def warm(self, state: Any, params: Any) -> Any:
        """The state with the parameters of a fitted predictor."""
        ...


@runtime_checkable
class Reacts(Protocol):
    """A gradient strategy whose logits also change from epoch to epoch, by what the network was worth."""

    def after_epoch(self, logits: Any, mixing: Mixing, epoch: int, epochs: int, error: float, key: jax.Array) -> Any:
        """The logits of the next epoch. `error` is the metric of the task, which is minimised, in validation of the
        network with the mixture that `tracked` gives."""
        ...


@runtime_checkable
class GradientStrategy(Protocol):
    """A frozen dataclass that says how logits become a mixture, and how they learn; `nas.training.bilevel` runs it.

    Laws, for every gradient strategy:

    1. All randomness comes from the key.
    2. `mixture` has a gradient by every logit of operations, but of those that the strategy leaves out.
    3. Weights are not negative, and any of them derive a legal architecture.
    """

    @property
    def along_paths(self) -> bool:
        """Whether mixtures are one-hot, so that weights are trained on a path."""
        ...

    order: str
    partial: int
    warmup: float
    bilevel: bool
    max_skips: int | None
    stop_growth: float
    cost_weight: float

    def init(self, key: jax.Array, mixing: Mixing) -> Any:
        """Logits. Raises ValueError, naming the field, where the strategy asks for what such a space does not have."""
        ...

    def optimiser(self) -> Any:
        """Of the logits, as an optax.GradientTransformation."""
        ...

    def mixture(
        self, logits: Any, mixing: Mixing, key: jax.Array, progress: Float[Array, ""] | float
    ) -> Float[Array, "edges ops"]:
        """What a step trains with; `progress` goes from 0 in the first epoch to 1 in the last."""
        ...

    def weights(self, logits: Any, mixing: Mixing) -> Float[Array, "edges ops"]:
        """What an architecture is derived from."""
        ...

    def tracked(self, logits: Any, mixing: Mixing) -> Float[Array, "edges ops"]:
        """The mixture of which the validation error is tracked."""
        ...

    def penalty(self, logits: Any, mixing: Mixing, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """What is added to the loss by which logits learn."""
        ...

"""The search loop: ask, log, submit, wait, log, tell. The only place where strategy, executor and log meet.

Trials are told in the order of their numbers, and a trial is asked for when a fixed number of earlier ones is told,
neither more nor fewer. So the trials do not depend on how many workers there are, or on which is faster. Resuming is
the same loop: what the log holds is not asked, submitted or logged again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.compilation import in_order
from nas.evaluators.base import Job, Report
from nas.executors import Executor
from nas.types import Observations, Proposals, Strategy
from spaces.base import Limits, Space


@dataclasses.dataclass
class Entry:
    """A trial as the log knows it: asked for, and reported or not yet."""

    encoding: tuple[int, ...]
    budget: int
    objectives: tuple[float, ...] | None = None  # NaN where it failed; None where it has not been reported


@runtime_checkable
class Log(Protocol):
    """Durable memory of one run."""

    def entries(self) -> tuple[Sequence[Entry], Sequence[int]]:
        """All trials by number, and the numbers of the reported ones in the order of their reports."""
        ...

    def ask(self, number: int, encodings: np.ndarray, budgets: np.ndarray) -> None:
        """These trials are about to be submitted, numbered from `number` on; all are recorded, or none."""
        ...

    def report(self, report: Report) -> tuple[float, ...]:
        """Records the outcome of a trial and returns its objectives, NaN where it failed."""
        ...


@functools.cache
def _programs() -> tuple[Any, Any]:
    def ask(strategy: Strategy, state: Any, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        return strategy.ask(state, key, n, pending)

    def tell(strategy: Strategy, state: Any, observed: Observations) -> Any:
        return strategy.tell(state, observed)

    options = in_order()
    return (
        jax.jit(ask, static_argnums=(0, 3), compiler_options=options),
        jax.jit(tell, static_argnums=0, compiler_options=options),
    )


def ask(strategy: Strategy, state: Any, key: jax.Array, n: int, pending: Proposals) -> Proposals:
    return _programs()[0](strategy, state, key, n, pending)


def tell(strategy: Strategy, state: Any, observed: Observations) -> Any:
    return _programs()[1](strategy, state, observed)


@dataclasses.dataclass
class Search:
    """One run of a strategy, as far as it has got."""

    strategy: Strategy
    space: Space
    limits: Limits
    key: jax.Array
    num_trials: int
    lag: int  # how many trials may be asked for and not told, at most
    ordered: bool = True
    entries: list[Entry] = dataclasses.field(default_factory=list)
    state: Any = None
    told: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.lag = max(self.lag, self.strategy.generation)
        self.state = self.strategy.init(self.space, self.limits)

    def due(self) -> int:
        """How many trials are to be asked for now: what is left of the generation, once enough are told."""
        asked, generation = len(self.entries), self.strategy.generation
        end = (asked // generation + 1) * generation
        return min(end, self.num_trials) - asked if len(self.told) >= end - self.lag else 0

    def ask(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The encodings and budgets of the next `n` trials, as arrays of `n` rows."""
        key = jr.fold_in(self.key, len(self.entries))
        proposals = ask(self.strategy, self.state, key, n, self._pending())
        return np.asarray(proposals.encodings), np.asarray(proposals.budgets)

    def tell(self, number: int) -> None:
        entry = self.entries[number]
        observed = Observations(
            jnp.asarray([entry.encoding], jnp.int32),
            jnp.asarray([entry.budget], jnp.int32),
            jnp.asarray([entry.objectives], jnp.float32),
        )
        self.state = tell(self.strategy, self.state, observed)
        self.told.append(number)

    def _pending(self) -> Proposals:
        told = set(self.told)
        rows = [entry for number, entry in enumerate(self.entries) if number not in told]
        encodings = np.full((self.lag, len(self.space.cardinalities)), -1, np.int32)
        budgets = np.zeros(self.lag, np.int32)
        for slot, entry in enumerate(rows):
            encodings[slot], budgets[slot] = entry.encoding, entry.budget
        return Proposals(jnp.asarray(encodings), jnp.asarray(budgets))


def run(
    search: Search,
    executor: Executor,
    log: Log,
    *,
    seed: int,
    on_report: Callable[[int, Report | None], None] = lambda number, report: None,
) -> None:
    """Evaluates trials until `search.num_trials` are reported and told.

    `on_report` hears each trial once: its report, or None where the log had it already.
    """
    entries, arrived = log.entries()
    reported: dict[int, tuple[float, ...]] = {}  # and not yet told

    def submit(number: int) -> None:
        entry = search.entries[number]
        executor.submit(Job(number, entry.encoding, entry.budget, seed))

    def ask_what_is_due() -> None:
        while n := search.due():
            start = len(search.entries)
            encodings, budgets = search.ask(n)
            log.ask(start, encodings, budgets)  # before submitting: a crash must not lose a trial
            for row, budget in zip(encodings, budgets, strict=True):
                search.entries.append(Entry(tuple(int(choice) for choice in row), int(budget)))
            for number in range(start, start + n):
                submit(number)

    def tell(number: int, objectives: tuple[float, ...]) -> None:
        reported[number] = objectives
        while (following := len(search.told) if search.ordered else number) in reported:
            search.entries[following].objectives = reported.pop(following)
            search.tell(following)
            ask_what_is_due()  # at once: every ask sees exactly the trials that its number says

    search.entries.extend(entries)
    for number, entry in enumerate(entries):
        if entry.objectives is None:
            submit(number)
    ask_what_is_due()
    for number in arrived:
        on_report(number, None)
        tell(number, entries[number].objectives or ())
    while len(search.told) < search.num_trials:
        report = executor.wait()
        objectives = log.report(report)
        on_report(report.number, report)
        tell(report.number, objectives)

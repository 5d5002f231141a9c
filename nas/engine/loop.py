"""The search loop: ask, log, submit, wait, log, tell. The only place where strategy, executor and log meet.

Trials are told in the order of their numbers, and a trial is asked for when a fixed number of earlier ones is told,
neither more nor fewer. So the trials do not depend on how many workers there are, or on which is faster. Resuming is
the same loop: what the log holds is not asked, submitted or logged again.

Evaluators are pure, so an architecture that was evaluated already with the same budget is not evaluated again: its
trial has the result of the earlier one. A search ends before its last trial where nothing new is left to evaluate.
"""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.random as jr
import numpy as np

from nas.engine.executors import Executor
from nas.engine.proposals import check_form, check_values
from nas.errors import DamagedError, UsageError
from nas.evaluators.base import Job, Report
from nas.training.compilation import in_order
from spaces.base import Limits, Space
from strategies.base import Drawn, Observations, Proposals, Strategy, needs_of

MOST_AT_ONCE = 10**6  # proposals: more than any memory wants
GROUP_SECONDS = 0.05  # for which a report waits for others, or until the next evaluation in this process has ended


@dataclasses.dataclass
class Entry:
    """A trial as the log knows it: asked for, and reported or not yet."""

    encoding: tuple[int, ...]
    budget: int
    objectives: tuple[float, ...] | None = None  # NaN where it failed; None where it has not been reported
    drawn: tuple[tuple[int, ...], float] | None = None  # the row and its log-probability: see `strategies.base.Drawn`


@runtime_checkable
class Log(Protocol):
    """Durable memory of one run."""

    def entries(self) -> tuple[Sequence[Entry], Sequence[int]]:
        """All trials by number, and the numbers of the reported ones in the order of their reports."""
        ...

    def ask(self, number: int, entries: Sequence[Entry]) -> None:
        """These trials are about to be submitted, numbered from `number` on; all are recorded, or none."""
        ...

    def report(self, report: Report) -> tuple[float, ...]:
        """Records the outcome of a trial and returns its objectives, NaN where it failed."""
        ...

    def repeat(self, number: int, first: int) -> None:
        """Records that a trial has the result of an earlier one."""
        ...

    def flush(self) -> None:
        """What was recorded since the last time is durable when this returns: all of it, or after a crash none."""
        ...


@functools.cache
def _programs() -> tuple[Any, Any]:
    def ask(strategy: Strategy, state: Any, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        proposed = strategy.ask(state, key, n, pending)
        check_form(strategy, proposed, n, pending.encodings.shape[1])
        return proposed

    def tell(strategy: Strategy, state: Any, observed: Observations) -> Any:
        return strategy.tell(state, observed)

    options = in_order()
    return (
        jax.jit(ask, static_argnums=(0, 3), compiler_options=options),
        jax.jit(tell, static_argnums=0, compiler_options=options),
    )


@functools.cache
def _folded() -> Any:
    return jax.jit(jr.fold_in)  # which operation by operation takes ten times as long


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
    num_legal: int | None = None  # how many architectures there are, where that is known
    budgets: tuple[int, ...] = ()  # that the strategy asks for; empty where an architecture is evaluated once
    asks: bool = True  # by itself; else others have asked for all that there will be
    entries: list[Entry] = dataclasses.field(default_factory=list)
    state: Any = None
    told: list[int] = dataclasses.field(default_factory=list)  # in this order
    waiting: dict[int, Entry] = dataclasses.field(default_factory=dict)  # asked for and not told, by number
    asked: set[Any] = dataclasses.field(default_factory=set)  # architectures, each with its budget where it has several

    def __post_init__(self):
        generation = self.strategy.generation
        if type(generation) is not int or not 1 <= generation <= MOST_AT_ONCE:
            said = f"generation={str(generation)[:60]} must be an integer from 1 to {MOST_AT_ONCE}"
            raise UsageError(f"strategy={type(self.strategy).__name__!r}: {said}")
        self.lag = max(self.lag, generation)
        self.state = self.strategy.init(self.space, self.limits)

    @property
    def exhausted(self) -> bool:
        """Whether every architecture that there is was asked for, with every budget."""
        return self.are_all(len(self.asked))

    def are_all(self, asked: int) -> bool:
        """Whether so many different ones are all that there are to ask for."""
        return self.num_legal is not None and asked >= self.num_legal * max(len(self.budgets), 1)

    def what(self, entry: Entry) -> Any:
        """What an entry asks for."""
        return (entry.encoding, entry.budget) if self.budgets else entry.encoding

    @property
    def size(self) -> int:
        """How many trials there will be, as far as is known."""
        return len(self.entries) if self.exhausted or not self.asks else self.num_trials

    def due(self) -> int:
        """How many trials are to be asked for now: what is left of the generation, once enough are told."""
        asked, generation = len(self.entries), self.strategy.generation
        end = (asked // generation + 1) * generation
        needed = needs_of(self.strategy, asked)
        if not isinstance(needed, int | np.integer) or not 0 <= needed <= asked:
            said = f"needs({asked}) gives {str(needed)[:60]!r}, which must be an integer from 0 to {asked}"
            raise UsageError(f"strategy={type(self.strategy).__name__!r}: {said}")
        return min(end, self.size) - asked if len(self.told) >= max(end - self.lag, needed) else 0

    def ask(self, n: int) -> list[Entry]:
        """The next `n` trials; fewer where with them nothing is left to ask for. Raises UsageError for what is none."""
        key = _folded()(self.key, np.uint32(len(self.entries)))
        proposals = ask(self.strategy, self.state, key, n, self._pending())
        check_values(self.strategy, proposals, self.space, self.limits)
        rows, budgets = (np.asarray(each).tolist() for each in (proposals.encodings, proposals.budgets))
        how: list[Any] = [None] * n
        if proposals.drawn is not None:
            before, chances = (np.asarray(each).tolist() for each in jax.tree.leaves(proposals.drawn))
            how = [(tuple(row), chance) for row, chance in zip(before, chances, strict=True)]
        new: list[Entry] = []
        unknown: set[Any] = set()
        for row, budget, drawn in zip(rows, budgets, how, strict=True):
            new.append(Entry(tuple(row), budget, drawn=drawn))
            unknown |= {self.what(new[-1])} - self.asked
            if self.are_all(len(self.asked) + len(unknown)):
                break
        return new

    def add(self, entries: Sequence[Entry]) -> None:
        """These were asked for, and are in the log."""
        for entry in entries:
            self.waiting[len(self.entries)] = entry
            self.asked.add(self.what(entry))
            self.entries.append(entry)

    def tell(self, number: int) -> None:
        entry, drawn = self.entries[number], None
        if entry.drawn is not None:
            row, log_probability = entry.drawn
            drawn = Drawn(*_placed(([row], np.int32), ([log_probability], np.float32)))
        encodings, budgets, objectives = _placed(
            ([entry.encoding], np.int32), ([entry.budget], np.int32), ([entry.objectives], np.float32)
        )
        observed = Observations(encodings, budgets, objectives, drawn)
        self.state = tell(self.strategy, self.state, observed)
        self.told.append(number)
        del self.waiting[number]

    def _pending(self) -> Proposals:
        slots = self.lag
        while slots < len(self.waiting):  # others may have asked for more; each size is a program
            slots *= 2
        encodings = np.full((slots, len(self.space.cardinalities)), -1, np.int32)
        budgets = np.zeros(slots, np.int32)
        for slot, entry in enumerate(self.waiting.values()):
            encodings[slot], budgets[slot] = entry.encoding, entry.budget
        return Proposals(*_placed((encodings, np.int32), (budgets, np.int32)))


def propose(search: Search, log: Log, count: int) -> tuple[int, list[Entry]]:
    """The next `count` trials for whoever evaluates them, recorded, and the number of the first; fewer where nothing is
    left to ask for. The strategy knows all that was reported, and what was asked for and was not."""
    entries, _ = log.entries()
    search.add([dataclasses.replace(entry, objectives=None) for entry in entries])
    for number, entry in enumerate(entries):
        if entry.objectives is not None:
            search.entries[number].objectives = entry.objectives
            search.tell(number)
    new: list[Entry] = []
    while len(new) < count and not search.exhausted:
        left_of_generation = search.strategy.generation - len(search.entries) % search.strategy.generation
        asked = search.ask(min(count - len(new), left_of_generation))
        search.add(asked)
        new += asked
    log.ask(len(entries), new)
    log.flush()
    return len(entries), new


def run(
    search: Search,
    executor: Executor,
    log: Log,
    *,
    seed: int,
    on_report: Callable[[int, tuple[float, ...]], None] = lambda number, objectives: None,
) -> None:
    """Evaluates trials until all are reported and told. `on_report` hears of each trial once it is in the log."""
    entries, arrived = log.entries()
    reported: dict[int, tuple[float, ...]] = {}  # and not yet told
    firsts: dict[tuple, int] = {}  # by what is evaluated, the trial that does it
    repeats: dict[int, list[int]] = {}  # by that trial, those that wait for it
    known: deque[tuple[int, int]] = deque()  # trials whose result is that of another one
    unsubmitted: deque[int] = deque()  # trials that are not in the log for good
    unheard: deque[tuple[int, tuple[float, ...]]] = deque()  # reports of which that is true too
    running: set[int] = set()  # trials that the executor has

    def submit(number: int) -> None:
        entry = search.entries[number]
        first = firsts.setdefault((entry.encoding, entry.budget), number)
        if first == number or _failed(search.entries[first]):  # what failed may have failed by chance
            executor.submit(Job(number, entry.encoding, entry.budget, seed))
            running.add(number)
        elif search.entries[first].objectives is not None:
            known.append((number, first))
        else:
            repeats.setdefault(first, []).append(number)

    def ask_what_is_due() -> None:
        while n := search.due():
            start, new = len(search.entries), search.ask(n)
            log.ask(start, new)
            search.add(new)
            unsubmitted.extend(range(start, start + len(new)))

    def flush() -> None:
        log.flush()  # before submitting: a crash must not lose a trial
        while unsubmitted:
            submit(unsubmitted.popleft())
        while unheard:
            on_report(*unheard.popleft())

    def tell(number: int, objectives: tuple[float, ...]) -> None:
        reported[number] = search.entries[number].objectives = objectives
        for other in repeats.pop(number, ()):
            submit(other)
        while (following := len(search.told) if search.ordered else number) in reported:
            del reported[following]
            search.tell(following)
            ask_what_is_due()  # at once: every ask sees exactly the trials that its number says

    search.add([dataclasses.replace(entry, objectives=None) for entry in entries])
    for number in sorted(range(len(entries)), key=lambda number: not _succeeded(entries[number])):
        firsts.setdefault((entries[number].encoding, entries[number].budget), number)
    for number, entry in enumerate(entries):
        if entry.objectives is None:
            submit(number)
    ask_what_is_due()
    flush()
    for number in arrived:
        objectives = entries[number].objectives or ()
        on_report(number, objectives)
        tell(number, objectives)
    flush()
    began = time.monotonic()
    while len(search.told) < search.size:
        if known:
            number, first = known.popleft()
            objectives = search.entries[first].objectives or ()
            log.repeat(number, first)
        elif not running:
            said = "its trials wait for one another, as those of no search do"
            raise DamagedError(f"the run is damaged: {said}; restore a copy of the store")
        else:
            report = executor.wait()
            running.discard(report.number)
            number, objectives = report.number, log.report(report)
        unheard.append((number, objectives))
        tell(number, objectives)
        # Reports that are there already share what it takes to make them durable, and so do the trials asked for.
        more = bool(known) or executor.ready()
        if not more or time.monotonic() - began > GROUP_SECONDS:
            flush()
            began = time.monotonic()
    flush()


def _placed(*arrays: tuple[Any, Any]) -> Any:
    """Values of the types beside them, on the device. By `jnp.asarray` they take longer than most strategies."""
    return jax.device_put([np.asarray(values, kind) for values, kind in arrays])


def _succeeded(entry: Entry) -> bool:
    return entry.objectives is not None and not _failed(entry)


def _failed(entry: Entry) -> bool:
    return entry.objectives is not None and bool(np.isnan(entry.objectives).all())

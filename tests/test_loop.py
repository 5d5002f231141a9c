"""The loop: the same trials on any executor and after any stop, nothing lost and nothing done twice."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import Toy
from flax import struct

from nas.engine.executors import InProcess
from nas.engine.loop import Entry, Search, run
from nas.evaluators.base import Evaluation, Job, run_job
from spaces.base import Space
from strategies.base import Observations, Proposals, Strategy
from strategies.regularized_evolution import RegularizedEvolution

TRIALS = 11
SEED = 7


@struct.dataclass
class WitnessState:
    space: Space = struct.field(pytree_node=False)
    digest: jax.Array


@dataclasses.dataclass(frozen=True)
class Witness:
    """Proposes by the digest of all that was told, in its order, and of what is pending: no deviation goes unseen."""

    generation: int = 1

    def init(self, space: Space, limits=()) -> WitnessState:
        return WitnessState(space, jnp.zeros((), jnp.uint32))

    def ask(self, state: WitnessState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        waiting = (pending.encodings + 2).sum() * 7919 + pending.budgets.sum()
        key = jr.fold_in(jr.fold_in(key, state.digest), waiting)
        sizes = jnp.array(state.space.cardinalities)[None]
        rows = jr.randint(key, (n, sizes.size), 0, sizes)
        # Budgets that differ, so that no two trials are the same evaluation.
        return Proposals(rows, 1000 * jnp.arange(n) + (state.digest % 999).astype(jnp.int32))

    def tell(self, state: WitnessState, observed: Observations) -> WitnessState:
        def add(digest, one):
            encoding, budget, objective = one
            bits = jax.lax.bitcast_convert_type(objective, jnp.uint32).sum()
            number = encoding.astype(jnp.uint32) @ jnp.arange(1, encoding.size + 1, dtype=jnp.uint32)
            return digest * 31 + number * 7 + budget.astype(jnp.uint32) + bits, None

        one_by_one = (observed.encodings, observed.budgets, observed.objectives)
        return state.replace(digest=jax.lax.scan(add, state.digest, one_by_one)[0])


def evaluate(encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
    """Pure; one architecture in five raises, and another has no finite error."""
    number = sum((i + 1) * choice for i, choice in enumerate(encoding)) + budget
    if number % 5 == 0:
        raise ArithmeticError(f"{number} is unlucky")
    return Evaluation({"error": math.nan if number % 5 == 1 else (number + seed) / 100})


class Memory:
    """The log as a list of events, of which any beginning is a log too."""

    def __init__(self, events=()):
        self.events = list(events)

    def entries(self):
        entries, arrived = [], []
        for kind, number, what in self.events:
            if kind == "asked":
                entries += [Entry(tuple(row), budget) for row, budget in what]
            else:
                entries[number].objectives = (math.nan,) if what is None else what
                arrived.append(number)
        return entries, arrived

    def ask(self, number, entries):
        assert number == len(self.entries()[0])
        self.events.append(("asked", number, [(entry.encoding, entry.budget) for entry in entries]))

    def repeat(self, number, first):
        self.events.append(("reported", number, self.entries()[0][first].objectives))

    def flush(self):
        pass

    def report(self, report):
        assert report.number not in self.entries()[1]
        objectives = (report.evaluation.metrics["error"],) if report.evaluation else None
        assert (objectives is None) == bool(report.error)
        self.events.append(("reported", report.number, objectives))
        return objectives or (math.nan,)

    def trials(self):
        return [(entry.encoding, entry.budget, repr(entry.objectives)) for entry in self.entries()[0]]


class Pool:
    """Evaluates like a pool of workers of uneven speed: `choose` says which of the waiting jobs ends next."""

    def __init__(self, choose):
        self.choose, self.jobs, self.submitted = choose, [], []

    def ready(self) -> bool:
        return len(self.jobs) % 2 == 1

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.submitted.append(job.number)

    def wait(self):
        return run_job(evaluate, self.jobs.pop(self.choose(len(self.jobs))))

    def close(self) -> None:
        self.jobs.clear()


def last(n: int) -> int:
    return n - 1


def random_one(seed: int):
    draw = np.random.default_rng(seed)
    return lambda n: int(draw.integers(n))


def second(n: int) -> int:
    """The oldest job is held up until it is alone."""
    return min(1, n - 1)


EXECUTORS = {
    "one worker": lambda: InProcess(evaluate),
    "last first": lambda: Pool(last),
    "first delayed": lambda: Pool(second),
    "random": lambda: Pool(random_one(1)),
    "random again": lambda: Pool(random_one(2)),
}
SEARCHES = {
    "lag 1": (Witness(), 1),
    "lag 4": (Witness(), 4),
    "lag beyond the trials": (Witness(), 20),
    "generations": (Witness(generation=3), 1),
    "overlapping generations": (Witness(generation=3), 5),
    "evolution": (RegularizedEvolution(3, 2), 4),
}
every_search = pytest.mark.parametrize(("strategy", "lag"), SEARCHES.values(), ids=SEARCHES)


def searching(strategy: Strategy, lag: int, *, trials: int = TRIALS, key: int = 0, kind=Search, **options) -> Search:
    return kind(strategy, Toy(), (), jr.key(key), trials, lag, **options)


def finished(strategy, lag, executor=None, events=(), **options) -> Memory:
    log = Memory(events)
    run(searching(strategy, lag, **options), executor or InProcess(evaluate), log, seed=SEED)
    return log


# Whoever evaluates


@every_search
@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
def test_the_trials_do_not_depend_on_the_order_of_reports(strategy, lag, executor):
    expected = finished(strategy, lag)
    assert len(expected.trials()) == TRIALS
    assert finished(strategy, lag, executor()).trials() == expected.trials()


def test_the_trials_depend_on_the_key_and_on_the_lag():
    ways = [(Witness(), 1, 0), (Witness(), 1, 1), (Witness(), 4, 0), (Witness(generation=3), 1, 0)]
    found = {str(finished(strategy, lag, key=key).trials()) for strategy, lag, key in ways}
    assert len(found) == len(ways)


def test_a_longer_search_begins_as_the_shorter_one():
    assert finished(Witness(), 4, trials=6).trials() == finished(Witness(), 4).trials()[:6]


# After a stop


@every_search
def test_a_search_goes_on_from_any_beginning_of_its_log_as_if_it_had_not_stopped(strategy, lag):
    events = finished(strategy, lag).events
    for cut in range(len(events) + 1):
        assert finished(strategy, lag, events=events[:cut]).events == events


@every_search
@pytest.mark.parametrize("before", ["last first", "random"])
@pytest.mark.parametrize("after", ["one worker", "first delayed"])
def test_a_search_goes_on_with_other_workers(strategy, lag, before, after):
    uninterrupted = finished(strategy, lag, EXECUTORS[before]())
    for cut in range(len(uninterrupted.events) + 1):
        executor = EXECUTORS[after]()
        assert finished(strategy, lag, executor, uninterrupted.events[:cut]).trials() == uninterrupted.trials()


def test_what_was_reported_is_not_evaluated_again():
    events = finished(Witness(), 4, Pool(last)).events
    for cut in range(len(events) + 1):
        done = {number for kind, number, _ in events[:cut] if kind == "reported"}
        executor = Pool(second)
        finished(Witness(), 4, executor, events[:cut])
        assert sorted(executor.submitted) == sorted(set(range(TRIALS)) - done)


def test_each_report_is_heard_once_and_that_of_the_log_first():
    events = finished(Witness(), 4, Pool(last)).events
    heard = []
    log = Memory(events[: len(events) // 2])
    known = log.entries()[1]
    run(
        searching(Witness(), 4),
        Pool(last),
        log,
        seed=SEED,
        on_report=lambda number, objectives: heard.append((number, objectives)),
    )
    assert known == [number for number, _ in heard[: len(known)]]
    assert sorted(number for number, _ in heard) == list(range(TRIALS))
    entries = log.entries()[0]
    assert all(repr(entries[number].objectives) == repr(objectives) for number, objectives in heard)


# The order of things


def traced(strategy, lag, choose, ordered: bool = True) -> list[tuple[str, int]]:
    """What happens to which trial, as the log, the executor and the strategy see it."""
    trace: list[tuple[str, int]] = []

    class Asker(Search):
        def tell(self, number):
            super().tell(number)
            trace.append(("told", number))

    class Writer(Memory):
        def ask(self, number, entries):
            super().ask(number, entries)
            trace.extend(("logged", number + i) for i in range(len(entries)))

        def report(self, report):
            trace.append(("reported", report.number))
            return super().report(report)

    class Worker(Pool):
        def submit(self, job):
            super().submit(job)
            assert job.seed == SEED
            trace.append(("submitted", job.number))

    run(searching(strategy, lag, kind=Asker, ordered=ordered), Worker(choose), Writer(), seed=SEED)
    return trace


@every_search
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("choose", [last, second, random_one(3)], ids=["last", "second", "random"])
def test_a_trial_is_logged_then_submitted_then_reported_then_told(strategy, lag, ordered, choose):
    trace = traced(strategy, lag, choose, ordered)
    place = {event: i for i, event in enumerate(trace)}
    assert len(place) == len(trace) == 4 * TRIALS
    for number in range(TRIALS):
        steps = [place[step, number] for step in ("logged", "submitted", "reported", "told")]
        assert steps == sorted(steps)
    told = [number for step, number in trace if step == "told"]
    assert sorted(told) == list(range(TRIALS))
    if ordered:
        assert told == list(range(TRIALS))


@every_search
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_no_more_trials_are_untold_than_the_lag_allows(strategy, lag, ordered):
    untold, most = 0, 0
    for step, _ in traced(strategy, lag, second, ordered):
        untold += {"logged": 1, "told": -1}.get(step, 0)
        most = max(most, untold)
    allowed = max(lag, strategy.generation)
    assert untold == 0
    assert most <= allowed
    if strategy.generation == 1:
        assert most == min(allowed, TRIALS)


def test_reports_that_are_there_are_made_durable_together_and_trials_are_submitted_after():
    trace: list[tuple[str, int]] = []

    class Grouped(Memory):
        def ask(self, number, entries):
            super().ask(number, entries)
            trace.extend(("asked", number + i) for i in range(len(entries)))

        def flush(self):
            trace.append(("flushed", len(trace)))

    class Worker(InProcess):
        def submit(self, job):
            super().submit(job)
            trace.append(("submitted", job.number))

    run(searching(Witness(), 4), Worker(evaluate), Grouped(), seed=SEED)
    place = {event: i for i, event in enumerate(trace)}
    flushes = [i for i, (event, _) in enumerate(trace) if event == "flushed"]
    for number in range(TRIALS):
        assert any(place["asked", number] < i < place["submitted", number] for i in flushes)
    assert len(flushes) < TRIALS


def test_a_trial_is_asked_for_once_all_but_the_lag_before_it_are_told():
    told = 0
    for step, number in traced(Witness(), 4, last):
        told += step == "told"
        if step == "logged":
            assert told == max(0, number - 3)  # neither more nor fewer


# What was evaluated already, and what is left


@dataclasses.dataclass(frozen=True)
class Few(Witness):
    """Proposes three architectures again and again."""

    def ask(self, state, key, n, pending):
        rows = super().ask(state, key, n, pending).encodings.at[:, 1:].set(0).at[:, 0].set(jr.randint(key, (n,), 0, 2))
        return Proposals(rows.at[:, 5].set(jr.randint(jr.fold_in(key, 1), (n,), 0, 2)), jnp.zeros(n, jnp.int32))


@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("generation", [1, 3])
def test_what_was_evaluated_is_not_evaluated_again_unless_it_failed(executor, generation):
    evaluated = []

    def counted(encoding, budget, seed):
        evaluated.append(encoding)
        return Evaluation({"error": sum(encoding) / 10}) if encoding[0] == 0 else evaluate(encoding, 10, seed)

    expected = finished(Few(generation), 4, InProcess(counted))
    assert len(expected.trials()) == TRIALS
    succeeded = [row for row in evaluated if row[0] == 0]
    assert len(succeeded) == len(set(succeeded)) < sum(row[0] == 0 for row, _, _ in expected.trials())
    events = expected.events
    for cut in range(len(events) + 1):
        assert finished(Few(generation), 4, InProcess(counted), events[:cut]).trials() == expected.trials()


@dataclasses.dataclass(frozen=True)
class Counting(Witness):
    """Proposes architecture 0, 1, 2, 3, 0, 1, ... of decision 5."""

    def ask(self, state, key, n, pending):
        number = state.digest.astype(jnp.int32) + (pending.encodings[:, 0] >= 0).sum() + jnp.arange(n)
        return Proposals(jnp.zeros((n, 6), jnp.int32).at[:, 5].set(number % 4), jnp.zeros(n, jnp.int32))

    def tell(self, state, observed):
        return state.replace(digest=state.digest + jnp.uint32(len(observed.encodings)))


@pytest.mark.parametrize("generation", [1, 3])
@pytest.mark.parametrize("lag", [1, 3, 20])
def test_a_search_ends_where_nothing_is_left(generation, lag):
    log = finished(Counting(generation), lag, num_legal=4)
    assert [row[5] for row, _, _ in log.trials()] == [0, 1, 2, 3]
    for cut in range(len(log.events) + 1):
        assert finished(Counting(generation), lag, events=log.events[:cut], num_legal=4).events == log.events
    assert len(finished(Counting(generation), lag, num_legal=5).trials()) == TRIALS


def test_replaying_a_log_takes_a_step_a_trial():
    """Each trial is told once and looked up no more often: what a log of n trials costs does not grow as n squared."""
    reads = []

    class Counted(Memory):
        def entries(self):
            reads.append(1)
            return super().entries()

    events = finished(Counting(), 4, trials=60).events
    log = Counted(events)
    run(searching(Counting(), 4, trials=60), InProcess(evaluate), log, seed=SEED)
    assert len(reads) == 1


# Failures and arrival order


def test_failed_trials_are_told_as_nan_and_the_search_goes_on():
    search = searching(Witness(), 4)
    log = Memory()
    run(search, InProcess(evaluate), log, seed=SEED)
    failed = [number for kind, number, objectives in log.events if kind == "reported" and objectives is None]
    assert 0 < len(failed) < TRIALS
    for number, entry in enumerate(search.entries):
        assert math.isnan(entry.objectives[0]) == (number in failed)
    assert search.told == list(range(TRIALS))


def test_a_search_of_which_every_trial_fails_ends():
    def fails(encoding, budget, seed):
        raise MemoryError

    log = Memory()
    run(searching(RegularizedEvolution(3, 2), 4), InProcess(fails), log, seed=SEED)
    assert [what for kind, _, what in log.events if kind == "reported"] == [None] * TRIALS


@every_search
@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
def test_unordered_searches_evaluate_each_trial_once(strategy, lag, executor):
    executor = executor()
    log = finished(strategy, lag, executor, ordered=False)
    assert sorted(log.entries()[1]) == list(range(TRIALS))
    if isinstance(executor, Pool):
        assert executor.submitted == list(range(TRIALS))


def test_unordered_searches_tell_on_arrival():
    search, log = searching(Witness(), 4, ordered=False), Memory()
    run(search, Pool(second), log, seed=SEED)
    assert search.told == log.entries()[1] != sorted(search.told)


@every_search
def test_unordered_searches_go_on_from_any_beginning_of_their_log(strategy, lag):
    events = finished(strategy, lag, Pool(last), ordered=False).events
    for cut in range(len(events) + 1):
        log = finished(strategy, lag, Pool(last), events[:cut], ordered=False)
        assert log.events[:cut] == events[:cut]
        assert sorted(log.entries()[1]) == list(range(TRIALS))


# One job


def job(number: int = 3) -> Job:
    return Job(number, (1, 2), 5, 9)


def test_a_job_is_evaluated_with_its_own_arguments():
    report = run_job(lambda *arguments: Evaluation({"error": 0.5, "sum": sum(arguments[0] + arguments[1:])}), job())
    assert report.number == 3
    assert report.evaluation == Evaluation({"error": 0.5, "sum": 17})
    assert report.error is None
    assert report.seconds >= 0


def raising(error: BaseException):
    def evaluator(encoding, budget, seed):
        raise error

    return evaluator


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("of no use"), "ValueError: of no use"),
        (KeyError(), "KeyError"),
        (AssertionError("x"), "AssertionError: x"),
    ],
    ids=["message", "none", "assertion"],
)
def test_an_exception_becomes_a_failed_report(error, said):
    report = run_job(raising(error), job())
    assert report.evaluation is None
    assert report.error == said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_error_that_is_not_finite_becomes_a_failed_report(value):
    report = run_job(lambda *_: Evaluation({"error": value}), job())
    assert report.evaluation is None
    assert report.error == f"the error is {value}"


def test_an_evaluation_without_an_error_becomes_a_failed_report():
    assert "error" in run_job(lambda *_: Evaluation({"macs": 1.0}), job()).error


def test_an_interrupt_is_not_a_failed_trial():
    with pytest.raises(KeyboardInterrupt):
        run_job(raising(KeyboardInterrupt()), job())

"""A job that is to take a given time: how many steps and trials fit is measured on this machine, before it begins.

The plan is a part of the stored configuration, so that the job is as repeatable and resumable as any other.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nas.config import Config, Data
from nas.errors import UsageError
from nas.evaluators.supernet import Supernet
from nas.evaluators.train import TrainEvaluator
from nas.job.subject import Subject, context_of
from nas.report.progress import Reporter, duration
from nas.streams import PATHS, SAMPLE, WEIGHTS, stream
from nas.training.net import flatten, split, supernet
from nas.training.paths import uniform_paths
from nas.training.sgd import fit
from spaces.base import sample
from strategies.base import GradientStrategy

SHARES = {"training": 0.4, "trials": 0.25, "final": 0.35}  # of the time that compiling leaves
KEPT = 0.9  # of the whole: what is measured for a moment is not quite what is met
START = 10.0  # seconds that Ray's workers take to start
LEAST = {"training": 100, "trials": 20, "final": 50}  # with fewer a job says nothing
PLENTY = 5  # random architectures beside the best, where there is time for them
MOST = 20  # times the default: a small network on small images needs no more, however long it may take
MEASURED = 1.0  # seconds for which steps are watched
WATCHED = 16  # steps of a final training


class Pace(NamedTuple):
    first: float  # seconds until the first is done: mostly to compile
    each: float  # seconds of each further one


class Plan(NamedTuple):
    baselines: int  # random architectures that are trained beside the best
    times: dict[str, int]  # how often each stage comes
    counts: dict[str, int]  # its steps or trials
    least: float  # seconds that the stages take at least


def planned(settings: Config, given: Data, subject: Subject, reporter: Reporter, began: float) -> Data:
    """The given data with as many steps and trials as fit into `settings.time`, of which what has passed since the job
    `began` (`time.monotonic`) is gone; what the user gives of these stays. Where all stages still have at least what
    they have by default, more random architectures are trained beside the best.

    Raises UsageError where the time is too short, and for jobs that cannot be planned."""
    seconds = settings.seconds
    assert seconds is not None  # else nobody asks
    _check(settings, subject)
    reporter.show("Measuring this machine", 0, 3, "compiling")
    paces: dict[str, Pace] = {}
    for count, (stage, measure) in enumerate(MEASURES.items(), 1):
        paces[stage] = measure(settings, subject)
        reporter.show("Measuring this machine", count, 3, "")
    fixed = {stage: count for stage in SHARES if (count := _given(given, stage)) is not None}
    # To read the data, to measure, and to start what evaluates.
    gone = time.monotonic() - began + (START if settings.workers else 0)
    plan = _fitting(settings, fixed, paces, KEPT * seconds - gone, settings.baselines)
    if "baselines" not in given and settings.finalists:
        more = _fitting(settings, fixed, paces, KEPT * seconds - gone, PLENTY)
        if all(more.counts[stage] >= _default(settings, stage) for stage in SHARES):
            plan = more
    free = [stage for stage in SHARES if stage not in fixed and plan.times[stage]]
    if any(plan.counts[stage] < min(LEAST[stage], MOST * _default(settings, stage)) for stage in free):
        least = duration((plan.least + gone) / KEPT * 1.5)
        raise UsageError(f"time={settings.time!r} is too short for this job on this machine: give it {least} or so")
    _tell(reporter, seconds, plan, paces)
    return _with(given, plan)


def _fitting(
    settings: Config, fixed: Mapping[str, int], paces: Mapping[str, Pace], seconds: float, baselines: int
) -> Plan:
    """What fits into some seconds, also where that is too little. Raises UsageError where all is given already."""
    trained = settings.finalists + baselines if settings.finalists else 0  # of nothing there are no baselines
    times = {"training": 1, "trials": 1, "final": trained}
    free = [stage for stage in SHARES if stage not in fixed and times[stage]]
    if not free:
        raise UsageError(f"time={settings.time!r} leaves nothing to plan: trials and both numbers of steps are given")

    def together(each: Mapping[str, int]) -> float:
        return sum(paces[stage].each * times[stage] * count for stage, count in each.items())

    spent = sum(paces[stage].first * times[stage] for stage in SHARES) + together(fixed)
    counts = {stage: _default(settings, stage) for stage in SHARES} | dict(fixed)
    for stage in free:
        share = SHARES[stage] / sum(SHARES[each] for each in free)
        fits = int((seconds - spent) * share / (paces[stage].each * times[stage]))
        counts[stage] = min(fits, MOST * _default(settings, stage))
    return Plan(baselines, times, counts, spent + together({stage: LEAST[stage] for stage in free}))


def _check(settings: Config, subject: Subject) -> None:
    said = f"time={settings.time!r} is for searches with --evaluator supernet"
    if subject.task is None or settings.architecture is not None or not isinstance(settings.evaluator, Supernet):
        raise UsageError(f"{said}, and not for tables, other evaluators or a single training")
    if isinstance(settings.strategy, GradientStrategy):
        raise UsageError(f"{said}: a gradient strategy takes as long as its --epochs say")
    if subject.pretraining is not None:
        raise UsageError(f"{said}, and not with --pretrain")
    subject.scoring.check(context_of(settings, subject))


def _pace(run: Callable[[int], Any]) -> Pace:
    began = time.monotonic()
    run(1)
    first, count = time.monotonic() - began, 1
    while True:
        began = time.monotonic()
        run(count)
        took = time.monotonic() - began
        if took >= MEASURED or count >= 256:
            return Pace(first, took / count)
        count *= 4


def _shared(settings: Config, subject: Subject, affine: bool):
    return split(supernet(subject.space, subject.images.kind, stream(settings.seed, WEIGHTS), affine=affine))


def _training(settings: Config, subject: Subject) -> Pace:
    graph, start, statistics = _shared(settings, subject, settings.evaluator.affine)
    key = stream(settings.seed, PATHS)

    def run(steps: int) -> None:
        recipe = dataclasses.replace(settings.training, steps=steps)
        paths = uniform_paths(subject.space, key, steps)
        fit(graph, start, statistics, subject.images, recipe, seed=settings.seed, paths=paths)

    return _pace(run)


def _trials(settings: Config, subject: Subject) -> Pace:
    def weights(affine: bool) -> dict[str, np.ndarray]:
        return flatten(_shared(settings, subject, affine)[1])

    evaluator = subject.scoring.prepare(context_of(settings, subject, shared_weights=weights))
    row = _some(subject)

    def run(count: int) -> None:
        for _ in range(count):
            evaluator(row, 0, settings.seed)

    return _pace(run)


def _final(settings: Config, subject: Subject) -> Pace:
    row = _some(subject)

    def took(steps: int) -> float:
        began = time.monotonic()
        recipe = dataclasses.replace(settings.final, steps=steps)
        train = TrainEvaluator(subject.space, subject.images, recipe, pruned=True, teacher=subject.teacher)
        train(row, 0, settings.seed)
        return time.monotonic() - began

    # Calibration and validation are no steps: two lengths tell them apart.
    first, short, long = took(1), took(1), took(1 + WATCHED)
    return Pace(first, max(long - short, long / 10) / WATCHED)


MEASURES: Mapping[str, Callable[[Config, Subject], Pace]] = {
    "training": _training,
    "trials": _trials,
    "final": _final,
}


def _some(subject: Subject) -> tuple[int, ...]:
    return tuple(map(int, np.asarray(sample(subject.space, stream(0, SAMPLE), 1))[0]))


def _given(given: Data, stage: str) -> int | None:
    """What the user has said himself."""
    value = given.get("trials") if stage == "trials" else dict(given.get(stage) or {}).get("steps")
    return None if value is None else int(value)


def _default(settings: Config, stage: str) -> int:
    return settings.trials if stage == "trials" else getattr(settings, stage).steps


def _with(given: Data, plan: Plan) -> Data:
    recipes = {stage: {**dict(given.get(stage) or {}), "steps": plan.counts[stage]} for stage in ("training", "final")}
    return {**given, **recipes, "trials": plan.counts["trials"], "baselines": plan.baselines}


def _tell(reporter: Reporter, seconds: float, plan: Plan, paces: Mapping[str, Pace]) -> None:
    def part(stage: str, what: str) -> str:
        took = plan.times[stage] * (paces[stage].first + plan.counts[stage] * paces[stage].each)
        return f"{what} ({duration(took)})"

    beside = plan.baselines if plan.times["final"] else 0
    parts = (
        part("training", f"{plan.counts['training']} steps of shared weights"),
        part("trials", f"{plan.counts['trials']} trials"),
        part("final", f"{plan.times['final']} trainings of {plan.counts['final']} steps, {beside} random"),
    )
    reporter.say(f"The plan for {duration(seconds)}, as fast as this machine is now: {', '.join(parts)}.")

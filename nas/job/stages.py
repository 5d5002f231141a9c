"""The stages of a job up to the end of its search: shared weights, candidates, and what a predictor learned of them."""

import functools
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas import hosts
from nas.engine import gradient, loop
from nas.engine.record import measured
from nas.errors import RunError
from nas.evaluators.base import Evaluator
from nas.evaluators.train import RUNG_FOLDER
from nas.job import helping
from nas.job.context import Ongoing
from nas.report import output
from nas.saved import checkpoint, predictor_jobs
from nas.store import files
from nas.store.query import Row, Trial, free_name
from nas.streams import stream
from nas.training.paths import training_paths
from predictors import kind_of
from strategies.base import budgets_of


class NothingFinished(RunError):
    """A search of which every trial failed."""


def searched(job: Ongoing, state: loop.Search | None) -> list[Trial]:
    """The finished trials, first that of the architecture that was found. Without a state the search is by gradients.

    Raises NothingFinished where none has finished.
    """
    if state is None:
        return by_gradients(job)
    asked_and_told(job, state)
    shutil.rmtree(job.folder / RUNG_FOLDER, ignore_errors=True)
    trials = job.search.trials()
    say_what_was_left_out(job, trials)
    finished = [trial for trial in trials if trial.state == "finished"]
    if not finished:
        reasons = {trial.error for trial in trials}
        raise NothingFinished(f"every trial failed: {sorted(map(str, reasons))[0]}")
    save_predictor(job)
    # Of those with the largest budget the best; among equal ones the cheaper one, then the earlier one.
    objective = job.settings.objective

    def place(trial: Trial) -> tuple[float, ...]:
        value, macs = measured(objective, trial.measurements), trial.measurements.get("macs", 0.0)
        return -trial.budget, value, macs, trial.number

    return sorted(finished, key=place)


def by_gradients(job: Ongoing) -> list[Trial]:
    settings, saved = job.settings, job.folder / "search.safetensors"
    how = {"saved": saved, "note": job.note, "progress": job.reporter.show, "say": job.reporter.say}
    if settings.finalists and not saved.exists():
        job.check_cluster()
    trials = gradient.search(
        settings,
        job.space,
        job.subject.images,
        job.search,
        on_loss=lambda step, loss: job.logs.measured("training", (step, {"loss": loss})),
        **how,
    )
    if saved.exists():
        job.keep("search", saved)
    return trials


def asked_and_told(job: Ongoing, state: loop.Search) -> None:
    settings, scoring, record = job.settings, job.subject.scoring, job.search
    best, count = float("inf"), 0

    def on_report(number: int, objectives: tuple[float, ...]) -> None:
        nonlocal best, count
        count += 1
        if not state.budgets or state.entries[number].budget == state.budgets[-1]:
            best = float(np.fmin(best, objectives[0]))
        remark = "" if best == float("inf") else f"best {output.reading(settings.objective, best)}"
        job.reporter.show("Searching", count, settings.trials, remark)

    if record.complete(state):
        return
    if not scoring.immediate:
        job.check_cluster()
    scores = evaluator(job)
    job.reporter.show("Searching", 0, settings.trials, "" if scoring.immediate else "compiling")
    where = job.executor(scores, settings.workers, settings.trial_seconds, immediate=scoring.immediate)
    with where as executor:
        loop.run(state, executor, record, seed=settings.seed, on_report=on_report)


def evaluator(job: Ongoing) -> Evaluator:
    """What scores candidates, once the shared weights that it needs are trained."""
    if budgets_of(job.settings.strategy):
        files.ready(job.folder / RUNG_FOLDER)
    return job.subject.scoring.prepare(job.context(shared_weights=lambda affine: shared_weights(job, affine)))


def shared_weights(job: Ongoing, affine: bool) -> dict[str, np.ndarray]:
    """Those of the supernet; from the checkpoint, as far as there is one. Where there are other processes, they train
    them too, and are free then."""
    helping.ask(job, affine)
    with hosts.together():
        how = {"paths": functools.partial(_paths, job), "kept": functools.partial(_kept, job), "keep": job.keep}
        return helping.train(job.settings, job.subject, affine, **how)


def _paths(job: Ongoing, purpose: int, steps: int) -> np.ndarray:
    """Those along which shared weights are trained, one a step."""
    settings, key = job.settings, stream(job.settings.seed, purpose)
    limits, bins = settings.limits, settings.cost_bins
    return training_paths(settings.paths, job.space, key, steps, bins=bins, limits=limits)


def _kept(job: Ongoing, stage: str, file: str, steps: int, kind: str) -> dict[str, Any]:
    """Where a training of shared weights keeps its progress, how it is shown, and what logs call it."""
    saved = job.folder / f"{file}.safetensors"
    job.reporter.show(stage, min(checkpoint.step_of(saved), steps), steps, "compiling")

    def shown(step: int, loss: float) -> None:
        job.reporter.show(stage, step, steps, f"loss {loss:.3f}")
        job.logs.measured(kind, (step, {"loss": loss}))

    return {"saved": saved, "note": job.note, "on_step": shown}


def say_what_was_left_out(job: Ongoing, trials: Sequence[Trial]) -> None:
    settings = job.settings
    repeats = sum(trial.repeats is not None for trial in trials)
    if repeats:
        job.reporter.say(f"{repeats} of {len(trials)} trials have the result of an earlier one: it was known.")
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed and len(failed) < len(trials):
        job.reporter.say(f"{len(failed)} of {len(trials)} trials failed, the first: {failed[0].error}")
    if len(trials) < settings.trials and not settings.ask_and_tell:
        those = {"keeps the limits": settings.limits, "was measured": job.subject.measured}
        legal = " and ".join(said for said, holds in those.items() if holds)
        every = f"every architecture of the space{' that ' if legal else ''}{legal} was evaluated"
        job.reporter.say(f"The search ends after {len(trials)} of {settings.trials} trials: {every}.")


def save_predictor(job: Ongoing) -> None:
    """What the strategy's predictor learns from all trials; unless that was done before a stop."""
    name, saved, stage = job.settings.save_predictor, job.store.predictors(), "Fitting the predictor"
    if name is None or any(_has_saved(job, row) for row in saved):
        return
    free = free_name(name, {row["name"] for row in saved})
    if free != name:
        job.reporter.say(f"Another predictor was called {name} meanwhile: this one is {free}.")
    job.reporter.show(stage, 0, 1, free)
    objective = job.settings.objective
    _, rows, targets = predictor_jobs.measured(job.store, job.run, objective)
    predictor, start = job.learning.predictor, job.learning.start
    fitted = predictor_jobs.fit_on(predictor, [job.run], rows, targets, objective, start)
    fitted.card["saved_by"] = job.run.identity
    predictor_jobs.save(job.store, free, fitted)
    job.reporter.show(stage, 1, 1, free)


def _has_saved(job: Ongoing, predictor: Row) -> bool:
    card, run = predictor["card"], job.run
    if "saved_by" in card:
        return run.identity is not None and card["saved_by"] == run.identity
    # An older version did not note by which run a predictor was saved.
    same = card.get("kind") == kind_of(job.learning.predictor) and card.get("runs") == [run.name]
    return same and predictor["name"] == job.settings.save_predictor

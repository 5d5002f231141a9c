"""A search job from beginning to end: data, shared weights, search, final training; and the same after a stop.

Everything that is computed follows from the stored configuration, so a resumed job ends as an uninterrupted one.
"""

import contextlib
import dataclasses
import importlib.metadata
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas import config, registry
from nas.config import Config, Data
from nas.engine import gradient, loop
from nas.engine.executors import Executor, InProcess
from nas.errors import Interrupted, RunError, UsageError, unknown
from nas.evaluators.base import Evaluator, Job, Report
from nas.evaluators.own import OwnEvaluator
from nas.evaluators.supernet import SupernetEvaluator
from nas.evaluators.table import TableEvaluator
from nas.evaluators.train import TrainEvaluator
from nas.evaluators.train import check as check_recipe
from nas.evaluators.zero_cost import METRICS, ZeroCostEvaluator
from nas.interrupts import held, reason, undisturbed
from nas.job.learning import Learning
from nas.report import command_lines, output
from nas.report.outcome import Outcome
from nas.report.progress import Reporter, Silent
from nas.saved import checkpoint, predictor_jobs
from nas.saved.predictors import described
from nas.store.lock import locked
from nas.store.query import NewTrial, Row, Run, Trial, free_name
from nas.store.sql import Store
from nas.streams import BASELINE, PATHS, SAMPLE, SEARCH, WEIGHTS, stream
from nas.tables import Table, table_of
from nas.tasks import kinds, load
from nas.tasks.augment import Augment, check_fits
from nas.tasks.base import Task
from nas.training.compilation import quick_start
from nas.training.net import flatten, split
from nas.training.paths import cost_binned_paths, uniform_paths
from nas.training.sgd import fit
from predictors import kind_of
from spaces.base import (
    Limits,
    Space,
    architecture_id,
    check_encoding,
    costs,
    fingerprint,
    identify,
    sample,
    shares_weights,
)
from spaces.costs import with_cost
from strategies.archive import draw_new
from strategies.base import GradientStrategy
from strategies.region import region
from strategies.visited import also, nothing

ID = re.compile(r"[0-9a-f]{4,12}")  # of an architecture, or the beginning of it


def search(data: Data, resume: str | None = None, reporter: Reporter | None = None) -> Outcome:
    """Runs the job that the plain data configure, or goes on with a stored run, changing only where it runs."""
    reporter = reporter or Silent()
    url = data.get("store", Config.store)
    given = data
    if resume is not None:
        with Store(url) as store:
            run = store.run(resume)
        stored = run.given
        changed = {name: value for name, value in data.items() if not config.same_part(name, value, stored)}
        odd = sorted(set(changed) - set(config.RESUMABLE))
        if odd:
            allowed = ", ".join(config.RESUMABLE)
            raise UsageError(f"{odd[0]} cannot be changed by --resume, which takes no more than {allowed}")
        resume = run.name  # the latest may be another one in a moment
        given = {**stored, **changed, "store": url}
    settings = config.build(given)  # everything that can be wrong with it is said before anything is written
    quick_start()
    if resume is None and settings.name is not None:
        _check_name(url, settings.name)
    _check_own(given, settings)
    subject = load_subject(settings, config.names(given)["space"])
    if "objectives" not in given and settings.objectives == Config.objectives:
        settings = dataclasses.replace(settings, objectives=subject.metric)
    _check_objectives(settings, subject)
    if subject.task is not None and subject.task.note is not None:
        reporter.say(subject.task.note)
    learning = Learning.of(settings, subject.named, resume)
    with _usage():
        loop_state = _prepared(settings, subject, learning)
    with Store(url, create=True) as store:
        run = None
        try:
            with held():  # what is stored has a name by which to go on with it
                run = _begun(store, settings, given, subject, learning, resume)
            with locked(store.folder(run), run.name):
                return _ran(_Job(settings, subject, learning, store, run, reporter), loop_state)
        except KeyboardInterrupt:
            if run is None:
                raise
            again = command_lines.resume(run.name, store.url)
            raise Interrupted(f"Interrupted; nothing is lost. Go on with: {again}") from None


def _check_name(url: str, name: str) -> None:
    """Raises UsageError where a run has the name already: before the work of finding out that all else is well."""
    try:
        store = Store(url)
    except UsageError:
        return  # there is none yet; or it cannot be used, which is said when the run is about to be stored
    with store:
        store.check_new_name(name)


def _prepared(settings: Config, subject: "Subject", learning: Learning) -> loop.Search | None:
    """The state of the loop before its first trial; None where there is no loop. Raises for what cannot be searched."""
    if settings.architecture is not None:
        _given_row(settings, subject)
        return None
    if isinstance(settings.strategy, GradientStrategy):
        gradient.check(settings, subject.space, subject.task)
        return None
    _check_trainable(settings, subject)
    limits = subject.limits(settings)
    listed = region(subject.space, limits).listed
    state = loop.Search(
        learning.strategy,
        subject.space,
        limits,
        stream(settings.seed, SEARCH),
        settings.trials,
        settings.concurrency,
        ordered=not settings.unordered,
        num_legal=None if listed is None else len(listed.rows),
    )
    if learning.start is not None:
        state.state = learning.strategy.warm(state.state, learning.start.params)
    return state


def _check_own(given: Data, settings: Config) -> None:
    """Raises UsageError, saying which law, where a part of the user's own breaks its contract."""
    from nas import testing

    names = config.names(given)
    checks = {
        "space": lambda: testing.check_space(settings.space, samples=16, networks=False),
        "strategy": lambda: testing.check_fields_of_strategy(settings.strategy),
    }
    for kind, check in checks.items():
        if registry.is_own(kind, names[kind]):
            try:
                check()
            except testing.Broken as broken:
                raise UsageError(f"{kind}={names[kind]!r} breaks a law: {broken}") from broken


def _check_trainable(settings: Config, subject: "Subject") -> None:
    """Raises UsageError where candidates cannot be scored as the evaluator scores them."""
    needs_weights = settings.evaluator in ("supernet", "zero-cost")
    if subject.table is None and needs_weights and not shares_weights(subject.space):
        raise UsageError(
            f"evaluator={settings.evaluator!r} needs a space with shared weights; this one has none: "
            "--evaluator train builds the network of each architecture by itself"
        )


def _begun(
    store: Store, settings: Config, given: Data, subject: "Subject", learning: Learning, resume: str | None
) -> Run:
    """The stored run: a new one, or the one that goes on. Raises UsageError where that began with something else."""
    if resume is None:
        # Not where it is stored: that may have a password in it, and whoever finds the run knows it.
        kept = {name: value for name, value in config.to_data(settings, given).items() if name != "store"}
        return store.add_run(
            name=settings.name,
            **config.names(given),
            config={
                "given": kept,
                "task": subject.fingerprint(),
                "metric": subject.metric,
                "space": fingerprint(subject.named),
                "architectures": described(config.names(given)["space"], subject.named),
                "start": learning.digest,
                "identity": uuid.uuid4().hex,
            },
            code_version=importlib.metadata.version("nas-engine"),
            seed=settings.seed,
        )
    run = store.run(resume)
    if run.config.get("start") != learning.digest:
        raise UsageError(f"the predictor that {run.name} began with is another now")
    if run.config.get("space") != fingerprint(subject.named):
        raise UsageError(f"space={run.space!r} has other architectures than when {run.name} began")
    if run.config.get("task") != subject.fingerprint():
        raise UsageError(f"task={settings.task!r} has other images or labels than when {run.name} began")
    return run


def _ran(job: "_Job", loop_state: loop.Search | None) -> Outcome:
    """Runs the job, and records how it ended."""
    store, run = job.store, job.run_
    store.set_status(run.id, "running")
    try:
        outcome = job.run(loop_state)
    except KeyboardInterrupt as stop:
        with undisturbed():
            store.set_status(run.id, "interrupted", reason(stop))
            job.close()
        raise
    except Exception as error:
        is_own = registry.where(error) is not None  # it arose in code of the user's own
        said = registry.told(error) if is_own else str(error)
        with contextlib.suppress(UsageError, RunError):  # the store itself may be what failed
            store.set_status(run.id, "failed", said)
        again = command_lines.resume(run.name, store.url)
        if isinstance(error, UsageError | RunError):
            raise type(error)(f"{error}; then go on with {again}") from error
        if is_own:
            raise RunError(f"{said}; then go on with {again}") from error
        raise
    finally:
        job.close()
    store.set_status(run.id, "finished")
    return outcome


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is searched, on what: images, or a table."""

    space: Space  # as the strategy sees it
    named: Space  # as its architectures are called, whatever they are evaluated on
    task: Task | None
    table: Table | None

    def fingerprint(self) -> str:
        return (self.table or self.images).fingerprint()

    @property
    def metric(self) -> str:
        """What the task has minimised, such as error."""
        return "error" if self.task is None else self.task.kind.metric

    def limits(self, settings: Config) -> Limits:
        """Those of the user, and what the table has measured."""
        return settings.limits + (() if self.table is None else self.table.limits)

    @property
    def images(self) -> Task:
        assert self.task is not None  # only asked of a run on images
        return self.task


def load_subject(settings: Config, space_name: str) -> Subject:
    table = table_of(settings.task, space_name, settings.space)
    if table is not None:
        if settings.cost is not None or not isinstance(settings.evaluator, str):
            field = "cost" if settings.cost is not None else "evaluator"
            raise UsageError(f"{field} needs images: the table of task={settings.task!r} says what is measured")
        space = table.searchable()
        subject = Subject(space, table.space, None, table)
        table_evaluator(settings, table).check()
        return subject
    task = load_task(settings)
    space = _priced(settings, bind(settings.space, task))
    check_recipe(space, settings.final)
    for field in ("drop_path", "auxiliary"):
        if getattr(settings.training, field):
            raise UsageError(f"training.{field}={getattr(settings.training, field)} must be 0: it is for final")
    return Subject(space, space, task, None)


def _priced(settings: Config, space: Space) -> Space:
    """The space with the cost of the user's own. Raises UsageError for one that gives no numbers."""
    if settings.cost is None:
        return space
    rows = sample(space, stream(0, SAMPLE), 16)
    try:
        priced = with_cost(space, registry.own("cost", settings.cost))
        found = jax.jit(priced.cost)(rows)
    except Exception as error:  # of the user's own code
        raise UsageError(f"cost={settings.cost!r}: {registry.told(error)}") from error
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise UsageError(f"cost={settings.cost!r}: {name}={np.asarray(values).tolist()} must be finite numbers")
    return priced


def _check_objectives(settings: Config, subject: Subject) -> None:
    space = subject.space
    costs = space.cost(jnp.zeros((1, len(space.cardinalities)), jnp.int32))
    known, field = [subject.metric, *costs], "objectives"
    if settings.evaluator == "zero-cost":
        known, field = [*METRICS, *costs], "evaluator='zero-cost': objectives"
    elif not isinstance(settings.evaluator, str):
        known = [*settings.evaluator.metrics, *costs]
    for name in settings.objectives.split(","):
        if name not in known:
            raise unknown(field, name, known)


def table_evaluator(settings: Config, table: Table, tests: bool = False) -> TableEvaluator:
    asked = [*settings.objectives.split(","), *(name for name, _ in settings.limits)]
    costs = dict.fromkeys(["macs", "params", *(name for name in asked if name != "error")])
    return TableEvaluator(table, settings.table, tuple(name for name in costs if name in table.columns), tests)


def load_task(settings: Config) -> Task:
    task = load(
        settings.task,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        resize=settings.resize,
        max_images=settings.max_images,
    )
    for part in ("training", "final"):
        recipe = getattr(settings, part)
        check_fits(Augment(recipe.crop, recipe.flip, recipe.cutout, recipe.mixup), task.image_size, f"{part}.")
    return task


def bind(space: Any, task: Task) -> Space:
    """The space with the input and output of the task, as far as it has fields for them."""
    shape = {name: getattr(task, name) for name in ("image_size", "image_channels", "num_classes")}
    own = {field.name for field in dataclasses.fields(space)}
    return dataclasses.replace(space, **{name: size for name, size in shape.items() if name in own})


@dataclasses.dataclass
class _Job:
    settings: Config
    subject: Subject
    learning: Learning
    store: Store
    run_: Run
    reporter: Reporter

    def __post_init__(self):
        self.folder = self.store.folder(self.run_)
        self.space = self.subject.space
        self._pools = contextlib.ExitStack()

    def run(self, state: loop.Search | None) -> Outcome:
        """Without a state of the loop the search is by gradients, or there is none."""
        if self.settings.architecture is not None:
            trials = []
        elif state is None:
            place = (self.store, self.run_, self.folder)
            space: Any = self.space
            trials = gradient.search(self.settings, space, self.subject.images, *place, self.reporter.show)
        else:
            trials = self._searched(state)
        rows = [tuple(trial.encoding) for trial in _distinct(trials)[: self.settings.finalists]]
        if not trials:
            rows = [_given_row(self.settings, self.subject)]
        self._train_finals(rows, tuple(trials[0].encoding) if trials else rows[0])
        finals = [
            {
                "role": "random" if t.number >= len(rows) else "found" if trials else "given",
                "architecture": t.architecture,
                **t.measurements,
            }
            for t in self.store.trials(self.run_.id, "final")
        ]
        best = self.store.top(self.run_.name, limit=len(trials)) if trials else []
        best.sort(key=lambda row: row["architecture"] != trials[0].architecture)  # what was found comes first
        with_weights = {file.architecture for file in self.store.artifacts(self.run_.id, kind="weights")}
        trained = next((row["architecture"] for row in finals if row["architecture"] in with_weights), None)
        subject = self.subject
        more = {"objectives": self.settings.objectives, "metric": subject.metric, "on_table": subject.table is not None}
        return Outcome(self.run_.name, self.store.url, self.settings.objective, best[:5], finals, trained, **more)

    def _searched(self, state: loop.Search) -> list[Trial]:
        """The finished trials, best first."""
        self._search(state)
        asked = self.store.trials(self.run_.id)
        self._say_what_was_left_out(asked)
        trials = [t for t in asked if t.state == "finished"]
        if not trials:
            reasons = {t.error for t in asked}
            raise RunError(f"every trial failed: {sorted(map(str, reasons))[0]}")
        self._save_predictor()
        # Among equal ones the cheaper one, then the earlier one.
        objective = self.settings.objective
        return sorted(trials, key=lambda t: (t.measurements[objective], t.measurements.get("macs", 0.0), t.number))

    def close(self) -> None:
        self._pools.close()

    def train_supernet(self) -> dict[str, np.ndarray]:
        """The shared weights; from the checkpoint, as far as there is one."""
        settings, space = self.settings, self.space
        recipe, key_paths = settings.training, stream(settings.seed, PATHS)
        if settings.paths == "uniform":
            paths = uniform_paths(space, key_paths, recipe.steps)
        else:
            paths = cost_binned_paths(space, key_paths, recipe.steps, bins=settings.cost_bins, limits=settings.limits)
        saved = self.folder / "supernet.safetensors"
        self.reporter.show("Training shared weights", 0, recipe.steps, "compiling")
        weights = fit(
            *split(space.supernet(stream(settings.seed, WEIGHTS), affine=settings.affine)),
            self.subject.images,
            recipe,
            seed=settings.seed,
            paths=paths,
            saved=saved,
            note={"run": self.run_.identity, "space": fingerprint(space), **space.identity()},
            on_step=lambda step, loss: self.reporter.show(
                "Training shared weights", step, recipe.steps, f"loss {loss:.3f}"
            ),
        )
        self._keep("supernet", saved)
        return flatten(weights)

    def _save_predictor(self) -> None:
        """What the strategy's predictor learns from all trials; unless that was done before a stop."""
        name, saved = self.settings.save_predictor, self.store.predictors()
        if name is None or any(self._has_saved(row) for row in saved):
            return
        free = free_name(name, {row["name"] for row in saved})
        if free != name:
            self.reporter.say(f"Another predictor was called {name} meanwhile: this one is {free}.")
        name = free
        self.reporter.show("Fitting the predictor", 0, 1, name)
        objective = self.settings.objective
        rows, targets = predictor_jobs.measured(self.store, self.run_, objective)
        predictor, start = self.learning.strategy.predictor, self.learning.start
        fitted = predictor_jobs.fit_on(predictor, [self.run_], rows, targets, objective, start)
        fitted.card["saved_by"] = self.run_.identity
        predictor_jobs.save(self.store, name, fitted)
        self.reporter.show("Fitting the predictor", 1, 1, name)

    def _has_saved(self, predictor: Row) -> bool:
        card, run = predictor["card"], self.run_
        if "saved_by" in card:
            return run.identity is not None and card["saved_by"] == run.identity
        # An older version did not note by which run a predictor was saved.
        same = card.get("kind") == kind_of(self.learning.strategy.predictor) and card.get("runs") == [run.name]
        return same and predictor["name"] == self.settings.save_predictor

    def _search(self, state: loop.Search) -> None:
        settings = self.settings
        log = _RunLog(self.store, self.run_, self.subject.named, settings.seed, tuple(settings.objectives.split(",")))
        best, count = float("inf"), 0

        def on_report(number: int, objectives: tuple[float, ...]) -> None:
            nonlocal best, count
            best, count = float(np.fmin(best, objectives[0])), count + 1
            value = output.number(settings.objective, best)
            self.reporter.show("Searching", count, settings.trials, f"best {settings.objective} {value}")

        if not log.complete(state):
            evaluator = self._evaluator()
            compiles = self.subject.table is None
            self.reporter.show("Searching", 0, settings.trials, "compiling" if compiles else "")
            with self._executor(evaluator) as executor:
                loop.run(state, executor, log, seed=settings.seed, on_report=on_report)

    def _say_what_was_left_out(self, trials: Sequence[Trial]) -> None:
        repeats = sum(trial.repeats is not None for trial in trials)
        if repeats:
            self.reporter.say(f"{repeats} of {len(trials)} trials have the result of an earlier one: it was known.")
        if len(trials) < self.settings.trials:
            legal = "that keeps the limits" if self.settings.limits else "of the space"
            if self.subject.table is not None and self.subject.table.limits:
                legal += " and was measured"
            self.reporter.say(
                f"The search ends after {len(trials)} of {self.settings.trials} trials: "
                f"every architecture {legal} was evaluated."
            )

    def _evaluator(self) -> Evaluator:
        if self.subject.table is not None:
            return table_evaluator(self.settings, self.subject.table)
        if self.settings.evaluator == "train":
            pruned = not shares_weights(self.space)
            return TrainEvaluator(self.space, self.subject.images, self.settings.final, pruned=pruned)
        if self.settings.evaluator == "zero-cost":
            return ZeroCostEvaluator(
                self.space, self.subject.images, self.settings.zero_cost, objective=self.settings.objective
            )
        if not isinstance(self.settings.evaluator, str):
            own = self.settings.evaluator
            return OwnEvaluator(self.space, self.subject.images, own, objective=self.settings.objective)
        weights = self.train_supernet()
        return SupernetEvaluator(
            self.space,
            weights,
            self.subject.images,
            self.settings.calibration_images,
            precision=self.settings.training.precision,
            affine=self.settings.affine,
        )

    def _train_finals(self, finalists: Sequence[tuple[int, ...]], best: tuple[int, ...]) -> None:
        """The best and, beside them, random architectures of no greater cost than the best one's."""
        settings = self.settings
        known = self.store.trials(self.run_.id, "final")
        for trial in known:
            _check_row(self.run_, trial, self.subject.named)
        rows = [tuple(trial.encoding) for trial in known] or [*finalists, *self._baselines(finalists, best)]
        if not known and rows:
            entries = [loop.Entry(row, 0) for row in rows]
            new = _new_trials(self.subject.named, self.run_.space, 0, entries, settings.seed)
            self.store.add_trials(self.run_.id, new, "final")
        done = {trial.number for trial in known if trial.state != "running"}
        waiting = [number for number in range(len(rows)) if number not in done]
        if not waiting:
            return
        if self.subject.table is not None:
            evaluator = table_evaluator(settings, self.subject.table, tests=True)
        else:
            task, folder = self.subject.images, str(self.folder)
            kept: dict[str, Any] = {"folder": folder, "note": {"run": self.run_.identity}}
            evaluator = TrainEvaluator(self.space, task, settings.final, pruned=True, tests=True, **kept)
        budget = settings.epochs if settings.architecture is not None else 0
        trains = self.subject.table is None
        length = f"{budget} epochs" if budget else f"{settings.final.steps} steps"
        stage = "Training from scratch" if trains else "Looking up the best"
        self.reporter.show(stage, len(done), len(rows), f"{length} each" if trains else "")
        with self._executor(evaluator, min(settings.workers, len(waiting)), trial_seconds=0.0) as executor:
            for number in waiting:
                executor.submit(Job(number, rows[number], budget, settings.seed))
            for count in range(len(waiting)):
                report = executor.wait()
                self._record_final(report, rows[report.number])
                self.reporter.show(stage, len(done) + count + 1, len(rows), "")

    def _baselines(self, finalists: Sequence[tuple[int, ...]], best: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Random architectures, none of which is trained anyway or there twice."""
        count = self.settings.baselines
        if not count or not finalists:
            return []
        cheaper = region(self.space, tuple(sorted(costs(self.space, best).items())))
        trained = also(nothing(self.space, len(finalists)), jnp.asarray(finalists, jnp.int32))
        # A table tells apart what is one network: more are drawn, of each network one is kept.
        drawn = np.asarray(draw_new(cheaper, stream(self.settings.seed, BASELINE), 4 * count, trained))
        known = identify(self.subject.named, np.concatenate([np.asarray(finalists, np.int32), drawn]))
        first = {architecture.id: architecture.encoding for architecture in reversed(known)}
        ids = list(dict.fromkeys(architecture.id for architecture in known))[len(finalists) :]
        rows = [first[each] for each in ids[:count]]
        if len(rows) < count:
            self.reporter.say(f"{len(rows)} random architectures in place of {count}: no others cost as little.")
        return rows

    def _record_final(self, report: Report, encoding: tuple[int, ...]) -> None:
        metrics = None
        architecture = architecture_id(self.subject.named, np.asarray(encoding))
        if report.evaluation is not None:
            metrics = dict(report.evaluation.metrics)
            metric = self.subject.metric
            metrics[f"standalone_{metric}"] = metrics.pop(metric)  # by itself it is the signal of the search
            if report.evaluation.arrays:
                path = self.folder / f"{architecture}.safetensors"
                checkpoint.write(path, report.evaluation.arrays, self._description(encoding, metrics))
                self._keep("weights", path, architecture)
        self.store.finish_trial(
            self.run_.id,
            report.number,
            metrics=metrics,
            error=report.error,
            seconds=report.seconds,
            kind="final",
        )
        for progress in self.folder.glob("*.progress.safetensors"):
            if progress.name.startswith(architecture):
                progress.unlink()

    def _description(self, encoding: tuple[int, ...], metrics: dict[str, float]) -> dict:
        """Enough to build the network again and to feed it, without the search or its store."""
        return {
            "format": checkpoint.FORMAT,
            "architecture": architecture_id(self.space, np.asarray(encoding)),
            "space": described(self.run_.space, self.space),
            "encoding": list(encoding),
            "description": self.space.describe(np.asarray(encoding)),
            "task": self.run_.task,
            "mean": list(self.subject.images.mean),
            "std": list(self.subject.images.std),
            "kind": kinds.described(self.subject.images.kind),
            "classes": list(self.subject.images.classes),
            "resize": self.subject.images.resize,
            "metrics": metrics,
            "run": self.run_.name,
            "seed": self.settings.seed,
        }

    def _keep(self, kind: str, path: Path, architecture: str | None = None) -> None:
        self.store.add_artifact(
            self.run_.id, kind=kind, path=path, sha256=checkpoint.digest(path), architecture=architecture
        )

    @contextlib.contextmanager
    def _executor(
        self, evaluator: Evaluator, workers: int | None = None, trial_seconds: float | None = None
    ) -> Iterator[Executor]:
        settings = self.settings
        workers = settings.workers if workers is None else workers
        if workers == 0 or isinstance(evaluator, TableEvaluator):
            yield InProcess(evaluator)
            return
        from nas.engine import ray_pool

        self._pools.callback(ray_pool.stop_ray)
        executor = ray_pool.RayPool(
            evaluator,
            workers,
            trial_seconds=settings.trial_seconds if trial_seconds is None else trial_seconds,
            address=settings.ray_address,
        )
        try:
            yield executor
        finally:
            executor.close()


@dataclasses.dataclass(frozen=True)
class _RunLog:
    """The loop's log of one run, in the store."""

    store: Store
    run: Run
    space: Space
    seed: int
    objectives: tuple[str, ...]

    def entries(self) -> tuple[list[loop.Entry], list[int]]:
        trials = self.store.trials(self.run.id)
        for trial in trials:
            _check_row(self.run, trial, self.space)
        entries = [
            loop.Entry(
                tuple(t.encoding),
                t.budget,
                None if t.state == "running" else self._objectives(t.measurements),
                None if t.drawn is None else _drawn(t.drawn),
            )
            for t in trials
        ]
        arrived = sorted((t for t in trials if t.order is not None), key=lambda t: t.order or 0)
        return entries, [t.number for t in arrived]

    def complete(self, search: loop.Search) -> bool:
        """Whether nothing is left to do."""
        entries, arrived = self.entries()
        nothing_left = len({entry.encoding for entry in entries}) == search.num_legal
        return len(entries) == len(arrived) and (nothing_left or len(entries) == search.num_trials)

    def ask(self, number: int, entries: Sequence[loop.Entry]) -> None:
        self.store.add_trials(self.run.id, _new_trials(self.space, self.run.space, number, entries, self.seed))

    def report(self, report: Report) -> tuple[float, ...]:
        metrics = report.evaluation.metrics if report.evaluation else None
        self.store.finish_trial(self.run.id, report.number, metrics=metrics, error=report.error, seconds=report.seconds)
        return self._objectives(metrics or {})

    def repeat(self, number: int, first: int) -> tuple[float, ...]:
        return self._objectives(self.store.repeat_trial(self.run.id, number, first))

    def _objectives(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(metrics.get(name, float("nan")) for name in self.objectives)


def _new_trials(space: Space, name: str, number: int, entries: Sequence[loop.Entry], seed: int) -> list[NewTrial]:
    known = identify(space, np.asarray([entry.encoding for entry in entries]))
    return [
        NewTrial(
            number=number + i,
            architecture=architecture.id,
            encoding=entry.encoding,
            description=architecture.description,
            space=name,
            budget=entry.budget,
            seed=seed,
            drawn=None if entry.drawn is None else _as_json(*entry.drawn),
        )
        for i, (entry, architecture) in enumerate(zip(entries, known, strict=True))
    ]


def _check_row(run: Run, trial: Trial, space: Space) -> None:
    """Raises UsageError where what a store says of a trial is not an architecture of the space."""
    try:
        check_encoding(space, trial.encoding)
    except ValueError as error:
        said = f"trial {trial.number} is not an architecture of its space: {error}"
        raise UsageError(f"run={run.name!r} is damaged: {said}") from error


def _as_json(row: tuple[int, ...], log_probability: float) -> dict[str, Any]:
    """How a trial was drawn. JSON has no NaN, which is the log-probability of a row that no policy drew."""
    return {"row": list(row), "log_probability": None if np.isnan(log_probability) else log_probability}


def _drawn(kept: dict[str, Any]) -> tuple[tuple[int, ...], float]:
    chance = kept["log_probability"]
    return tuple(kept["row"]), float("nan") if chance is None else chance


def _given_row(settings: Config, subject: Subject) -> tuple[int, ...]:
    """The architecture to train. Raises UsageError where there is none of that description."""
    if subject.task is None:
        raise UsageError(f"task={settings.task!r} is a table, on which nothing is trained; name images")
    text = str(settings.architecture)
    try:
        return tuple(int(choice) for choice in subject.space.parse(text))
    except ValueError as error:
        hint = f"; {command_lines.ask(f'retrain {text}', settings.store)} trains what has this id"
        raise UsageError(f"architecture={error}{hint if ID.fullmatch(text) else ''}") from error


def _distinct(trials: Sequence[Trial]) -> list[Trial]:
    seen: dict[str, Trial] = {}
    for trial in trials:
        seen.setdefault(trial.architecture, trial)
    return list(seen.values())


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """What a strategy or space refuses is a mistake of the configuration."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error

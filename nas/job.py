"""A search job from beginning to end: data, shared weights, search, final training; and the same after a stop.

Everything that is computed follows from the stored configuration, so a resumed job ends as an uninterrupted one.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nas import checkpoint, config, gradient_job, loop, predictor_jobs
from nas.compilation import quick_start
from nas.config import Config, Data
from nas.errors import RunError, UsageError, unknown
from nas.evaluators.base import Evaluator, Job, Report
from nas.evaluators.supernet import SupernetEvaluator, costs
from nas.evaluators.table import TableEvaluator
from nas.evaluators.train import TrainEvaluator
from nas.evaluators.train import check as check_recipe
from nas.evaluators.zero_cost import METRICS, ZeroCostEvaluator
from nas.executors import Executor, InProcess
from nas.inference import flatten, split
from nas.learning import Learning
from nas.predictor_files import described
from nas.progress import Reporter, Silent
from nas.query import NewTrial, Row, Run, Trial
from nas.sampling import cost_binned_paths, uniform_paths
from nas.store import Store, files_of
from nas.streams import BASELINE, PATHS, SEARCH, WEIGHTS, stream
from nas.tables import Table, table_of
from nas.tasks import load
from nas.tasks.augment import Augment, check_fits
from nas.tasks.base import Task
from nas.train import fit
from nas.types import GradientStrategy
from spaces.base import Space, architecture_id, fingerprint
from strategies.region import draw, region


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run, and where its results are."""

    name: str
    store: str
    objective: str  # the first
    best: list[Row]  # of the search, by the objective
    finals: list[Row]  # trained from scratch: the best, then the baselines

    def top(self, by: str | None = None, limit: int = 10, where: str | None = None) -> list[Row]:
        with Store(self.store) as store:
            return store.top(self.name, by, limit, where)


class Stopped(KeyboardInterrupt):
    """Ctrl-C during a run that can be resumed."""

    def __init__(self, run: str, store: str):
        super().__init__(f"Interrupted; nothing is lost. Go on with: {_again(run, store)}")


def _again(run: str, store: str) -> str:
    return f"python run_search.py --resume {run}{config.store_flag(store)}"


def search(data: Data, resume: str | None = None, reporter: Reporter | None = None) -> Outcome:
    """Runs the job that the plain data configure, or goes on with a stored run, changing only where it runs."""
    url = data.get("store", Config.store)
    given = data
    if resume is not None:
        odd = sorted(set(data) - set(config.RESUMABLE))
        if odd:
            allowed = ", ".join(config.RESUMABLE)
            raise UsageError(f"{odd[0]} cannot be changed by --resume, which takes no more than {allowed}")
        with Store(url) as store:
            stored = store.run(resume).config
        given = {**_sized(stored["given"]), **data}
    settings = config.build(given)  # everything that can be wrong with it is said before anything is written
    quick_start()
    subject = load_subject(settings, config.names(given)["space"])
    space = subject.space
    reporter = reporter or Silent()
    if subject.task is not None and subject.task.note is not None:
        reporter.say(subject.task.note)
    learning = Learning.of(settings, subject.named, resume)
    with _usage():
        loop_state = None
        if settings.architecture is not None:
            _given_row(settings, subject)
        elif isinstance(settings.strategy, GradientStrategy):
            gradient_job.check(settings, space, subject.task)
        else:
            loop_state = loop.Search(
                learning.strategy,
                space,
                settings.limits,
                stream(settings.seed, SEARCH),
                settings.trials,
                settings.concurrency,
                ordered=not settings.unordered,
            )
            if learning.start is not None:
                loop_state.state = learning.strategy.warm(loop_state.state, learning.start.params)
    with Store(url, create=True) as store:
        if resume is not None:
            run = store.run(resume)
            if run.config.get("start") != learning.digest:
                raise UsageError(f"the predictor that {run.name} began with is another now")
            if run.config["task"] != subject.fingerprint():
                raise UsageError(f"task={settings.task!r} has other images or labels than when {run.name} began")
        else:
            run = store.add_run(
                name=settings.name,
                **config.names(given),
                config={
                    "given": config.to_data(settings, given),
                    "task": subject.fingerprint(),
                    "space": fingerprint(subject.named),
                    "architectures": described(config.names(given)["space"], subject.named),
                    "start": learning.digest,
                },
                code_version=importlib.metadata.version("nas-engine"),
                seed=settings.seed,
            )
        with _locked(run, store.url):
            store.set_status(run.id, "running")
            job = _Job(settings, subject, learning, store, run, reporter)
            try:
                outcome = job.run(loop_state)
            except KeyboardInterrupt:
                store.set_status(run.id, "interrupted", "Ctrl-C")
                raise Stopped(run.name, store.url) from None
            except Exception as error:
                with contextlib.suppress(UsageError):  # the store itself may be what failed
                    store.set_status(run.id, "failed", str(error))
                if isinstance(error, UsageError | RunError):
                    raise type(error)(f"{error}; then go on with {_again(run.name, store.url)}") from error
                raise
            finally:
                job.close()
            store.set_status(run.id, "finished")
            return outcome


def _sized(given: Data) -> Data:
    """What a run was given. One that does not say how images are resized began before that could be chosen."""
    if "resize" in given:
        return given
    folder = str(given.get("task")).startswith("folder:")
    return {**given, "resize": "stretch", "image_size": given.get("image_size") or (32 if folder else None)}


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
    def images(self) -> Task:
        assert self.task is not None  # only asked of a run on images
        return self.task


def load_subject(settings: Config, space_name: str) -> Subject:
    table = table_of(settings.task, space_name)
    if table is not None:
        space = table.searchable()
        subject = Subject(space, table.space, None, table)
        _check_objectives(settings, space)
        table_evaluator(settings, table).check()
        return subject
    task = load_task(settings)
    space = bind(settings.space, task)
    _check_objectives(settings, space)
    check_recipe(space, settings.final)
    for field in ("drop_path", "auxiliary"):
        if getattr(settings.training, field):
            raise UsageError(f"training.{field}={getattr(settings.training, field)} must be 0: it is for final")
    return Subject(space, space, task, None)


def _check_objectives(settings: Config, space: Space) -> None:
    costs = space.cost(jnp.zeros((1, len(space.cardinalities)), jnp.int32))
    known, field = ["error", *costs], "objectives"
    if settings.evaluator == "zero-cost":
        known, field = [*METRICS, *costs], "evaluator='zero-cost': objectives"
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
        limit=settings.max_images,
    )
    for recipe in (settings.training, settings.final):
        check_fits(Augment(recipe.crop, recipe.flip, recipe.cutout, recipe.mixup), task.image_size)
    return task


def bind(space: Any, task: Task) -> Space:
    """The space with the input and output of the task."""
    return dataclasses.replace(
        space,
        image_size=task.image_size,
        image_channels=task.image_channels,
        num_classes=task.num_classes,
    )


@dataclasses.dataclass
class _Job:
    settings: Config
    subject: Subject
    learning: Learning
    store: Store
    run_: Run
    reporter: Reporter

    def __post_init__(self):
        self.folder = files_of(self.store.url, self.run_.name)
        self.space = self.subject.space
        self._pools = contextlib.ExitStack()

    def run(self, state: loop.Search | None) -> Outcome:
        """Without a state of the loop the search is by gradients, or there is none."""
        if self.settings.architecture is not None:
            trials = []
        elif state is None:
            place = (self.store, self.run_, self.folder)
            space: Any = self.space
            trials = gradient_job.search(self.settings, space, self.subject.images, *place, self.reporter.show)
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
        return Outcome(self.run_.name, self.store.url, self.settings.objective, best[:5], finals)

    def _searched(self, state: loop.Search) -> list[Trial]:
        """The finished trials, best first."""
        self._search(state)
        trials = [t for t in self.store.trials(self.run_.id) if t.state == "finished"]
        if not trials:
            reasons = {t.error for t in self.store.trials(self.run_.id)}
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
        weights = fit(
            *split(space.supernet(stream(settings.seed, WEIGHTS), affine=settings.affine)),
            self.subject.images,
            recipe,
            seed=settings.seed,
            paths=paths,
            saved=saved,
            note={"space": fingerprint(space), **space.identity()},
            on_step=lambda step, loss: self.reporter.show(
                "Training shared weights", step, recipe.steps, f"loss {loss:.3f}"
            ),
        )
        self._keep("supernet", saved)
        return flatten(weights)

    def _save_predictor(self) -> None:
        """What the strategy's predictor learns from all trials; unless that was done before a stop."""
        name = self.settings.save_predictor
        if name is None or name in {row["name"] for row in self.store.predictors()}:
            return
        self.reporter.show("Fitting the predictor", 0, 1, name)
        objective = self.settings.objective
        rows, targets = predictor_jobs.measured(self.store, self.run_, objective)
        predictor, start = self.learning.strategy.predictor, self.learning.start
        fitted = predictor_jobs.fit_on(predictor, [self.run_], rows, targets, objective, start)
        predictor_jobs.save(self.store, name, fitted)
        self.reporter.show("Fitting the predictor", 1, 1, name)

    def _search(self, state: loop.Search) -> None:
        settings = self.settings
        log = _RunLog(self.store, self.run_, self.subject.named, settings.seed, tuple(settings.objectives.split(",")))
        best = [float("inf")]

        def on_report(number: int, report: Report | None) -> None:
            done = self.store.trials(self.run_.id) if report is None else None
            metrics = report.evaluation.metrics if report and report.evaluation else {}
            if done is not None:
                metrics = done[number].measurements
            best[0] = min(best[0], metrics.get(settings.objective, float("inf")))
            count[0] += 1
            value = f"{best[0]:.2%}" if settings.objective == "error" else f"{best[0]:.4g}"
            self.reporter.show("Searching", count[0], settings.trials, f"best {settings.objective} {value}")

        count = [0]
        if not log.complete(settings.trials):
            with self._executor(self._evaluator()) as executor:
                loop.run(state, executor, log, seed=settings.seed, on_report=on_report)

    def _evaluator(self) -> Evaluator:
        if self.subject.table is not None:
            return table_evaluator(self.settings, self.subject.table)
        if self.settings.evaluator == "train":
            return TrainEvaluator(self.space, self.subject.images, self.settings.final)
        if self.settings.evaluator == "zero-cost":
            return ZeroCostEvaluator(
                self.space, self.subject.images, self.settings.zero_cost, objective=self.settings.objective
            )
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
        settings, rows = self.settings, list(finalists)
        if settings.baselines:
            price = costs(self.space, best)
            cheaper = region(self.space, tuple(sorted(price.items())))
            drawn = draw(cheaper, stream(settings.seed, BASELINE), settings.baselines)
            rows += [tuple(int(choice) for choice in row) for row in np.asarray(drawn)]
        known = self.store.trials(self.run_.id, "final")
        if not known and rows:
            new = _new_trials(self.subject.named, self.run_.space, 0, rows, [0] * len(rows), settings.seed)
            self.store.add_trials(self.run_.id, new, "final")
        done = {trial.number for trial in known if trial.state != "running"}
        waiting = [number for number in range(len(rows)) if number not in done]
        if not waiting:
            return
        if self.subject.table is not None:
            evaluator = table_evaluator(settings, self.subject.table, tests=True)
        else:
            task, folder = self.subject.images, str(self.folder)
            evaluator = TrainEvaluator(self.space, task, settings.final, pruned=True, tests=True, folder=folder)
        budget = settings.epochs if settings.architecture is not None else 0
        self.reporter.show("Training from scratch", len(done), len(rows), "")
        with self._executor(evaluator, min(settings.workers, len(waiting)), trial_seconds=0.0) as executor:
            for number in waiting:
                executor.submit(Job(number, rows[number], budget, settings.seed))
            for count in range(len(waiting)):
                report = executor.wait()
                self._record_final(report, rows[report.number])
                self.reporter.show("Training from scratch", len(done) + count + 1, len(rows), "")

    def _record_final(self, report: Report, encoding: tuple[int, ...]) -> None:
        metrics = None
        architecture = architecture_id(self.subject.named, np.asarray(encoding))
        if report.evaluation is not None:
            metrics = dict(report.evaluation.metrics)
            metrics["standalone_error"] = metrics.pop("error")  # `error` is the signal of the search
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
            "format": 1,
            "architecture": architecture_id(self.space, np.asarray(encoding)),
            "space": described(self.run_.space, self.space),
            "encoding": list(encoding),
            "description": self.space.describe(np.asarray(encoding)),
            "task": self.run_.task,
            "mean": list(self.subject.images.mean),
            "std": list(self.subject.images.std),
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
        from nas import ray_pool

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
        entries = [
            loop.Entry(tuple(t.encoding), t.budget, None if t.state == "running" else self._objectives(t.measurements))
            for t in trials
        ]
        arrived = sorted((t for t in trials if t.order is not None), key=lambda t: t.order or 0)
        return entries, [t.number for t in arrived]

    def complete(self, trials: int) -> bool:
        return len(self.entries()[1]) == trials

    def ask(self, number: int, encodings: np.ndarray, budgets: np.ndarray) -> None:
        rows = [tuple(int(choice) for choice in row) for row in encodings]
        self.store.add_trials(self.run.id, _new_trials(self.space, self.run.space, number, rows, budgets, self.seed))

    def report(self, report: Report) -> tuple[float, ...]:
        metrics = report.evaluation.metrics if report.evaluation else None
        self.store.finish_trial(self.run.id, report.number, metrics=metrics, error=report.error, seconds=report.seconds)
        return self._objectives(metrics or {})

    def _objectives(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(metrics.get(name, float("nan")) for name in self.objectives)


def _new_trials(
    space: Space,
    name: str,
    number: int,
    rows: Sequence[tuple[int, ...]],
    budgets: Sequence[int] | np.ndarray,
    seed: int,
) -> list[NewTrial]:
    return [
        NewTrial(
            number=number + i,
            architecture=architecture_id(space, np.asarray(row)),
            encoding=row,
            description=space.describe(np.asarray(row)),
            space=name,
            budget=int(budget),
            seed=seed,
        )
        for i, (row, budget) in enumerate(zip(rows, budgets, strict=True))
    ]


def _given_row(settings: Config, subject: Subject) -> tuple[int, ...]:
    """The architecture to train. Raises ValueError or UsageError where there is none of that description."""
    if subject.task is None:
        raise UsageError(f"task={settings.task!r} is a table, on which nothing is trained; name images")
    return tuple(int(choice) for choice in subject.space.parse(str(settings.architecture)))


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


@contextlib.contextmanager
def _locked(run: Run, url: str) -> Iterator[None]:
    """One process a run. The kernel frees the lock however the process ends."""
    path = files_of(url, run.name) / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"run={run.name!r} is running in another process") from None
        yield

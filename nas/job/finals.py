"""The last stage of a job: what was found is trained from scratch and tested, beside random architectures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.engine import loop
from nas.errors import RunError
from nas.evaluators.base import Job, Report
from nas.evaluators.train import PROGRESS, lasting
from nas.job.context import Ongoing
from nas.job.subject import Subject
from nas.saved import checkpoint
from nas.saved.predictors import described
from nas.store.query import Row, Run, Trial
from nas.streams import BASELINE, stream
from nas.tasks import kinds
from spaces.base import architecture_id, costs, identify
from strategies.archive import draw_new
from strategies.region import region
from strategies.visited import also, nothing

Encoding = tuple[int, ...]
DRAWN = 16  # random architectures for each that is trained

_drawn = jax.jit(draw_new, static_argnums=2)  # else each of its operations is a program that no cache keeps


def trained(job: Ongoing, found: Sequence[Encoding], best: Encoding, *, given: bool) -> list[Row]:
    """What was found, trained and tested, then random architectures of no greater cost than the best one's.

    `given` says that the user named it, and nothing was searched. Raises RunError where none of it could be trained.
    """
    settings, record, scoring = job.settings, job.finals, job.subject.final
    known = record.trials()
    rows = [tuple(trial.encoding) for trial in known] or [*found, *_baselines(job, found, best)]
    if not known and rows:
        record.add(0, [loop.Entry(row, 0) for row in rows])
    done = {trial.number for trial in known if trial.state != "running"}
    waiting = [number for number in range(len(rows)) if number not in done]
    if waiting:
        for path in job.folder.glob(f"*{PROGRESS}"):
            checkpoint.read(path)  # a worker that found it damaged could only fail
        budget = settings.epochs if given else 0
        stage = ("Looking up the best", 1) if scoring.immediate else ("Training from scratch", _steps(job, budget))
        progress = _Progress(job, *stage, len(rows), len(done))
        workers = min(settings.workers, len(waiting))
        evaluator = scoring.prepare(job.context(on_step=progress.hear if workers == 0 else None))
        progress.look()
        with job.executor(evaluator, workers, 0.0, immediate=scoring.immediate, listen=progress.look) as executor:
            for number in waiting:
                executor.submit(Job(number, rows[number], budget, settings.seed))
            for _ in waiting:
                report = executor.wait()
                _finish(job, report, rows[report.number])
                progress.done += 1
                progress.look()
    known = record.trials()
    if found and all(trial.state == "failed" for trial in known[: len(found)]):
        said = "the architecture that was given" if given else "what was found"
        raise RunError(f"{said} could not be trained: {known[0].error}")
    role = "given" if given else "found"
    return [_row(trial, role if trial.number < len(found) else "random") for trial in known]


def _steps(job: Ongoing, budget: int) -> int:
    """Of one training, which lasts so many epochs or as long as its recipe says."""
    settings = job.settings
    own = lasting(settings.final, job.subject.images, budget).steps
    return own if job.subject.pretraining is None else settings.pretraining.steps + own


@dataclasses.dataclass
class _Progress:
    """How far the trainings are, all together, in steps."""

    job: Ongoing
    stage: str
    each: int  # steps of one
    count: int  # of trainings
    done: int

    def look(self) -> None:
        """Shows what is known of those under way from their checkpoints, which workers write."""
        self._show(sum(map(checkpoint.step_of, self.job.folder.glob(f"*{PROGRESS}"))))

    def hear(self, step: int, loss: float) -> None:
        """Shows the one under way in this process."""
        del loss
        self._show(step)

    def _show(self, partly: int) -> None:
        steps, total = self.done * self.each + partly, self.count * self.each
        compiles = not steps and self.job.subject.task is not None
        remark = f"{self.done} of {self.count} networks{', compiling' if compiles else ''}"
        self.job.reporter.show(self.stage, min(steps, total), total, remark)


def _row(trial: Trial, role: str) -> Row:
    return {"role": role, "architecture": trial.architecture, **trial.measurements}


def _baselines(job: Ongoing, found: Sequence[Encoding], best: Encoding) -> list[Encoding]:
    """Random architectures of no greater cost than the best one, and of those that are drawn the nearest to it in
    multiply-adds: what is compared should not differ in size. None of them is trained anyway or there twice."""
    count, space = job.settings.baselines, job.space
    if not count or not found:
        return []
    most = costs(space, best)
    cheaper = region(space, tuple(sorted(most.items())))
    trained = also(nothing(space, len(found)), jnp.asarray(found, jnp.int32))
    # A table tells apart what is one network: more are drawn, of each network one is kept.
    drawn = np.asarray(_drawn(cheaper, stream(job.settings.seed, BASELINE), DRAWN * count, trained))
    known = identify(job.subject.named, np.concatenate([np.asarray(found, np.int32), drawn]))
    first = {architecture.id: architecture.encoding for architecture in reversed(known)}
    ids = list(dict.fromkeys(architecture.id for architecture in known))[len(found) :]
    rows = [first[each] for each in ids]
    if rows and "macs" in most:
        priced = identify(space, np.asarray(rows, np.int32))
        rows = [each.encoding for each in sorted(priced, key=lambda each: abs(each.costs["macs"] - most["macs"]))]
    rows = rows[:count]
    if len(rows) < count:
        job.reporter.say(f"{len(rows)} random architectures in place of {count}: no others cost as little.")
    return rows


def _finish(job: Ongoing, report: Report, encoding: Encoding) -> None:
    metrics, folder = None, job.folder
    architecture = architecture_id(job.subject.named, np.asarray(encoding))
    if report.evaluation is not None:
        metrics = told_apart(report.evaluation.metrics, job.subject.metric)
        if report.evaluation.arrays:
            path = folder / f"{architecture}.safetensors"
            told = description(job.run, job.subject, encoding, metrics, job.settings.seed)
            checkpoint.write(path, report.evaluation.arrays, told)
            job.keep("weights", path, architecture)
    else:
        job.reporter.say(f"The training of {architecture} failed: {report.error}")
    job.finals.finish(report.number, metrics, report.error, report.seconds)
    for progress in folder.glob(f"*{PROGRESS}"):
        if progress.name.startswith(architecture):
            progress.unlink()


def told_apart(metrics: Mapping[str, float], metric: str) -> dict[str, float]:
    """Of a final training: what was measured in validation is `standalone_...`, for by itself a metric is the signal of
    the search. That are the task's metric and all that was measured in test too; costs were not."""
    measured = {metric, *(name for name in metrics if f"test_{name}" in metrics)}
    return {f"standalone_{name}" if name in measured else name: value for name, value in metrics.items()}


def description(run: Run, subject: Subject, encoding: Encoding, metrics: dict[str, float], seed: int) -> dict[str, Any]:
    """Enough to build the network again and to feed it, without the search or its store."""
    task, space, row = subject.images, subject.space, np.asarray(encoding)
    return {
        "format": checkpoint.FORMAT,
        "architecture": architecture_id(space, row),
        "space": described(run.space, space),
        "encoding": list(encoding),
        "description": space.describe(row),
        "task": run.task,
        "images": task.counts,
        "mean": list(task.mean),
        "std": list(task.std),
        "kind": kinds.described(task.kind),
        "classes": list(task.classes),
        "resize": task.resize,
        "metrics": metrics,
        "run": run.name,
        "seed": seed,
    }

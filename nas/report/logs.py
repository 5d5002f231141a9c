"""What a run measures, sent as it is measured to whoever draws or keeps it: `--log`, and callbacks in Python.

Nothing that a job does follows from it. A log that fails is said once and left alone: the store has everything.
"""

import contextlib
import functools
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from nas.errors import UsageError, one_line, unknown
from nas.plain import printable
from nas.report.progress import Reporter
from nas.store.query import Run

Callback = Callable[[str, int, Mapping[str, Any]], None]
"""Called with what was measured: ("training", step, {"loss": ...}) now and then while shared weights or those of a
gradient search are trained; ("trial", number, values) for each trial of the search and ("final", number, values) for
each final training, once the store has it. `values` are the `architecture`, its `state`, `seconds`, and metrics and
costs by name."""


@runtime_checkable
class Log(Protocol):
    def __call__(self, kind: str, number: int, values: Mapping[str, Any]) -> None: ...

    def close(self, finished: bool) -> None: ...


class TensorBoard:
    """Event files in a folder of the run's name in the given folder. A run that goes on adds a file."""

    def __init__(self, place: str, run: Run):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(os.path.join(place, run.name))
        self._writer.add_text("configuration", "\n\n".join(f"{name}: {value}" for name, value in run.given.items()))

    def __call__(self, kind: str, number: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(values).items():
            self._writer.add_scalar(f"{kind}/{name}", value, number)

    def close(self, finished: bool) -> None:
        del finished
        self._writer.close()


class MLflow:
    """A run of the experiment `nas` on a tracking server or in a database. One that goes on is found by its tag."""

    def __init__(self, place: str, run: Run):
        import logging

        # By default a server that is not there is waited for for minutes, time and again.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self._client, identity = MlflowClient(tracking_uri=place), f"{run.identity}"
        experiment = self._client.get_experiment_by_name("nas")
        where = self._client.create_experiment("nas") if experiment is None else experiment.experiment_id
        known = self._client.search_runs([where], f"tags.`nas.run` = '{identity}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            return
        self._id = self._client.create_run(where, run_name=run.name, tags={"nas.run": identity}).info.run_id
        for name, value in run.given.items():
            self._client.log_param(self._id, name, str(value)[:500])

    def __call__(self, kind: str, number: int, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = _numbers(values)
        self._client.log_batch(self._id, [Metric(f"{kind}/{name}", numbers[name], now, number) for name in numbers])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class WeightsAndBiases:
    """A run of the given project; one that goes on is the same one there."""

    def __init__(self, place: str, run: Run):
        import wandb

        quiet = wandb.Settings(console="off", silent=True)
        how = {"id": run.identity, "name": run.name, "resume": "allow", "config": dict(run.given), "settings": quiet}
        self._run = wandb.init(project=place, **how)
        for kind in ("training", "trial", "final"):
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/number")

    def __call__(self, kind: str, number: int, values: Mapping[str, Any]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in {"number": number, **values}.items()})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


# By name, which is that of the extra that brings its package: what opens it, and the package.
KINDS: dict[str, tuple[Callable[[str, Run], Log], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "mlflow": (MLflow, "mlflow"),
    "wandb": (WeightsAndBiases, "wandb"),
}


def parsed(text: str | None) -> list[tuple[str, str]]:
    """The kinds and places in `KIND:PLACE,KIND:PLACE`. Raises UsageError."""
    found = []
    for each in [] if text is None else text.split(","):
        kind, _, place = each.strip().partition(":")
        if kind not in KINDS:
            raise unknown("log", kind, KINDS)
        if not place:
            raise UsageError(f"log={each!r} must say where: tensorboard:DIR, mlflow:URI or wandb:PROJECT")
        found.append((kind, os.path.expanduser(place) if kind == "tensorboard" else place))
    return found


def lasting(text: str | None) -> str | None:
    """The same, found from any folder, and without passwords: whoever finds the run knows it."""
    whole = {"tensorboard": os.path.abspath}
    places = ((kind, re.sub(r"(//[^:/@]*):.*@", r"\1@", place)) for kind, place in parsed(text))
    return ",".join(f"{kind}:{whole.get(kind, str)(place)}" for kind, place in places) or None


def check(text: str | None) -> None:
    """Raises UsageError for a log that cannot be written: none of ours, or its package is missing."""
    for kind, _ in parsed(text):
        package = KINDS[kind][1]
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"log={kind!r} needs {package}: pip install 'nas-engine[{kind}]'")


class Logs:
    """Those of one job, and a callback of the user's own. An exception of the callback ends the job."""

    def __init__(self, reporter: Reporter, callback: Callback | None = None):
        self._reporter, self._callback = reporter, callback
        self._logs: dict[str, Log] = {}  # by what --log says of each

    @property
    def listening(self) -> bool:
        return bool(self._logs) or self._callback is not None

    @contextlib.contextmanager
    def opened(self, text: str | None, run: Run) -> Iterator[None]:
        """While these are written, and told how the job has ended."""
        self._open(text, run)
        finished = False
        try:
            yield
            finished = True
        finally:
            self._close(finished)

    def _open(self, text: str | None, run: Run) -> None:
        def add(kind: str, place: str) -> None:
            self._logs[f"{kind}:{place}"] = KINDS[kind][0](place, run)

        for kind, place in parsed(text):
            self._tried(f"{kind}:{place}", functools.partial(add, kind, place))

    def measured(self, kind: str, *found: tuple[int, Mapping[str, Any]]) -> None:
        """What was found, each with its number. Logs hear of all of it before the callback, which may end the job."""
        for number, values in found:
            for name, log in list(self._logs.items()):
                self._tried(name, functools.partial(log, kind, number, values))
        if self._callback is not None:
            for number, values in found:
                self._callback(kind, number, values)

    def _close(self, finished: bool) -> None:
        for name, log in list(self._logs.items()):
            self._tried(name, functools.partial(log.close, finished))
        self._logs.clear()

    def _tried(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # of another program's, by which no search shall end
            self._logs.pop(name, None)
            said = printable(one_line(error))[:200]
            self._reporter.say(f"--log {name} failed, and is left out from here on: {type(error).__name__}: {said}")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}

"""A job that runs: what its stages work with."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.config import Config
from nas.engine.executors import Executor, InProcess
from nas.engine.record import Record
from nas.evaluators.base import Context, Evaluator
from nas.job.learning import Learning
from nas.job.subject import Subject, context_of
from nas.report.logs import Logs
from nas.report.progress import Reporter
from nas.saved import checkpoint
from nas.store.query import Run
from nas.store.sql import Store
from spaces.base import Space, fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class Ongoing:
    """A stored run, with all that its stages need. Each stage goes on from what it finds in the store and folder."""

    settings: Config
    subject: Subject
    learning: Learning
    store: Store
    run: Run
    reporter: Reporter
    logs: Logs
    pools: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    @property
    def folder(self) -> Path:
        return self.store.folder(self.run)

    @property
    def space(self) -> Space:
        return self.subject.space

    @property
    def search(self) -> Record:
        objectives = tuple(self.settings.objectives.split(","))
        return Record(self.store, self.run, self.subject.named, self.settings.seed, objectives, self.logs)

    @property
    def finals(self) -> Record:
        return dataclasses.replace(self.search, kind="final")

    @property
    def note(self) -> dict[str, Any]:
        """Beside a checkpoint of shared weights: what it is the progress of."""
        return {**self.run.mark, "space": fingerprint(self.space), **self.space.identity()}

    def keep(self, kind: str, path: Path, architecture: str | None = None) -> None:
        """Notes a file of the run in the store."""
        sha256 = checkpoint.digest(path)
        self.store.add_artifact(self.run.id, kind=kind, path=path, sha256=sha256, architecture=architecture)

    def context(self, **more: Any) -> Context:
        """For those who score: see `subject.context_of`."""
        kept = {"progress": self.folder, "note": self.run.mark}
        return context_of(self.settings, self.subject, **kept, **more)

    def check_cluster(self) -> None:
        """Raises what keeps a job from the cluster that is named, if one is: before anything is trained. It is left
        again: who joins while nobody looks after the session is ended by Ray where its head goes away."""
        if self.settings.ray_address is not None and self.settings.workers:
            from nas.engine.ray_session import join, stop_ray

            try:
                join(self.settings.workers, self.settings.worker_gpus, self.settings.ray_address)
            finally:
                stop_ray()

    @contextlib.contextmanager
    def executor(
        self,
        evaluator: Evaluator,
        workers: int,
        trial_seconds: float,
        *,
        immediate: bool,
        listen: Callable[[], None] = lambda: None,
    ) -> Iterator[Executor]:
        """Where candidates are scored: in this process, or by Ray's workers, who are told to go when the job ends.
        While these are waited for, `listen` is called now and then."""
        if workers == 0 or immediate:
            yield InProcess(evaluator)
            return
        from nas.engine.ray_pool import RayPool
        from nas.engine.ray_session import stop_ray

        self.pools.callback(stop_ray)
        where = {"address": self.settings.ray_address, "gpus": self.settings.worker_gpus}
        how = {"trial_seconds": trial_seconds, "listen": listen, "say": self.reporter.say}
        executor = RayPool(evaluator, workers, **where, **how)
        try:
            yield executor
        finally:
            executor.close()

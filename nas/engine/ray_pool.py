"""A pool of Ray actors that evaluate, on this machine or a cluster. Beside `ray_session` nobody else imports Ray.

The evaluator, with its weights and data, lies once in the object store, and all workers read it there; of images that
are kept in files it says where they lie, unless there are other machines. A worker that dies, runs out of memory or
takes too long is replaced, and its job tried again, a bounded number of times.
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from nas import registry
from nas.engine import ray_session as session
from nas.engine.ray_session import last_words
from nas.errors import RunError
from nas.evaluators.base import Evaluator, Job, Report, run_job
from nas.interrupts import check
from nas.tasks.data import travelling
from nas.training.compilation import CACHE

import ray  # isort: skip  # after the session's settings
from ray import exceptions  # isort: skip

LISTEN_SECONDS = 5.0  # between two looks whether a signal came
LOOK_SECONDS = 1.0  # between two looks whether the session lives: before Ray ends the process, if it does not
SAY_SECONDS = 10.0  # after which it is said what is waited for, and after twice as long again
GONE_SECONDS = 60.0  # that a cluster may have no machine for a worker, while none works
MACHINES = 10  # that a job may lose; so many machines do not end by chance


class _Worker:
    """Lives in a process of its own. The evaluator arrives as arrays in shared memory, after the code it is made of."""

    def __init__(self, sources: dict[str, tuple[str, bytes]], cores: list[int]):
        if cores:  # before JAX starts its threads: XLA takes as many as there are cores
            os.sched_setaffinity(0, cores)
        from nas.training.compilation import quick_start

        quick_start()
        registry.install(sources)

    def hold(self, evaluator: Evaluator) -> None:
        """Answers once the process has started and holds the evaluator."""
        self._evaluator = evaluator

    def run(self, job: Job) -> Report:
        return run_job(self._evaluator, job)


@dataclasses.dataclass(frozen=True)
class _Running:
    worker: int
    job: Job
    deadline: float


class RayPool:
    """`workers` actors; each job has `trial_seconds` (0: no limit) and `attempts` tries, all on started workers.
    Each has a core, and as much of a GPU as `gpus` says; by default the GPUs are shared out. `listen` is called now and
    then while a report is waited for. `say` hears of what keeps workers from starting: it is waited for as long as it
    can be met. Raises RunError where it cannot, and where the session ends."""

    def __init__(
        self,
        evaluator: Evaluator,
        workers: int,
        *,
        trial_seconds: float = 0.0,
        attempts: int = 2,
        gpus: float | None = None,
        address: str | None = None,
        listen: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda said: None,
    ):
        self._trial_seconds, self._attempts, self._address = trial_seconds, attempts, address
        self._listen, self._say = listen, say
        self._gpus = session.join(workers, gpus, address)
        self._sources = registry.sources()
        self._elsewhere = session.has_other_machines()
        with travelling() if self._elsewhere else contextlib.nullcontext():
            self._evaluator = ray.put(evaluator)
        self._jobs: deque[Job] = deque()
        self._failures: Counter[int] = Counter()  # by job
        self._failed_starts = 0  # since the last success
        self._machines: Counter[int] = Counter()  # that were lost, by job
        self._shared = address is not None or not session.is_ours()  # with others, who may have all cores
        self._looked = self._listened = self._had_room = time.monotonic()
        self._patience = SAY_SECONDS
        self._say_at = self._looked + SAY_SECONDS
        self._workers: list[Any] = [None] * workers
        self._starting: dict[Any, int] = {}  # by reference, as are the running
        self._running: dict[Any, _Running] = {}
        self._idle: deque[int] = deque()
        for worker in range(workers):
            self._start(worker)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        with _connected():
            self._assign()

    def wait(self) -> Report:
        with _connected():
            return self._waited()

    def _waited(self) -> Report:
        while True:
            self._assign()  # a worker may have become idle by the report before, with jobs waiting
            soonest = min((each.deadline for each in self._running.values()), default=float("inf"))
            timeout = min(max(soonest - time.monotonic(), 0.01), LISTEN_SECONDS, LOOK_SECONDS)
            check()
            ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=timeout)
            self._look()
            late = [ref for ref, each in self._running.items() if each.deadline < time.monotonic()]
            for reference in dict.fromkeys([*late[:1], *ready]):
                if reference in self._starting:
                    self._started(reference)
                elif report := self._collect(reference, finished=reference in ready):
                    return report

    def ready(self) -> bool:
        with _connected():
            return bool(self._running) and bool(ray.wait([*self._running], num_returns=1, timeout=0)[0])

    def close(self) -> None:
        with contextlib.suppress(ConnectionError):
            for worker in self._workers:
                ray.kill(worker)
        self._forget()

    def _look(self) -> None:
        """Now and then, whether the session lives, and what the workers that have not started wait for."""
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        try:
            session.check_alive()
        except RunError:
            self._forget()
            raise
        if now > self._listened + LISTEN_SECONDS:
            self._listened = now
            self._listen()
        if self._shared:
            self._look_for_room(now)

    def _look_for_room(self, now: float) -> None:
        if not self._starting:
            self._patience, self._say_at = SAY_SECONDS, now + SAY_SECONDS
        if self._running or not self._starting or session.has_room(self._gpus):
            self._had_room = now
        elif now > self._had_room + GONE_SECONDS:
            session.check_room(self._gpus)
        if now > self._say_at:
            self._say(session.waiting(len(self._starting), self._gpus))
            self._patience *= 2
            self._say_at = now + self._patience

    def _forget(self) -> None:
        self._workers, self._starting, self._running = [], {}, {}

    def _assign(self) -> None:
        while self._idle and self._jobs:
            worker, job = self._idle.popleft(), self._jobs.popleft()
            deadline = time.monotonic() + self._trial_seconds if self._trial_seconds else float("inf")
            self._running[self._workers[worker].run.remote(job)] = _Running(worker, job, deadline)

    def _start(self, worker: int) -> None:
        self._workers[worker] = self._spawn(worker)
        self._starting[self._workers[worker].hold.remote(self._evaluator)] = worker

    def _started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= self._attempts * len(self._workers):
                raise RunError(f"workers cannot be started: {last_words(error)}") from error
            self._start(worker)
        else:
            self._failed_starts = 0
            self._idle.append(worker)

    def _collect(self, reference: Any, finished: bool) -> Report | None:
        """The report of a job, or None where it goes back to the queue."""
        running = self._running.pop(reference)
        worker, job = running.worker, running.job
        reason, lost = f"past its time limit of {self._trial_seconds:g} s", False
        if finished:
            try:
                report: Report = ray.get(reference)
            except exceptions.RayError as error:
                reason, lost = _reason(error), "its node has died" in str(error)
            else:
                self._idle.append(worker)
                self._failures.pop(job.number, None)
                return report
        # An actor method cannot be cancelled: the process must go.
        ray.kill(self._workers[worker])
        self._start(worker)
        self._failures[job.number] += not lost
        self._machines[job.number] += lost
        if self._failures[job.number] < self._attempts and self._machines[job.number] < MACHINES:
            self._jobs.appendleft(job)
            return None
        del self._failures[job.number]
        return Report(job.number, None, f"{reason} ({self._attempts} attempts)", 0.0)

    def _spawn(self, worker: int) -> Any:
        cores: list[int] = []
        if self._address is None and not self._elsewhere and hasattr(os, "sched_getaffinity"):
            # One core each, whatever their number: the same training then gives the same bits.
            mine = sorted(os.sched_getaffinity(0))
            cores = [mine[worker % len(mine)]]
        gpus = self._gpus
        variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if gpus else {"JAX_PLATFORMS": "cpu"}
        if self._address is None:
            # Workers import what this process can import, whatever folder it was started from, and share its cache.
            variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            variables |= {name: os.environ[name] for name in (CACHE,) if name in os.environ}
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, runtime_env={"env_vars": variables})(_Worker)
        return actor.remote(self._sources, cores)


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """A client of a cluster hears that this is gone by an error of Python's own."""
    try:
        yield
    except ConnectionError as error:
        raise RunError(f"the Ray session has ended: {last_words(error)}") from error


def _reason(error: exceptions.RayError) -> str:
    said = last_words(error)
    if isinstance(error, exceptions.OutOfMemoryError | MemoryError) or "memory" in said.lower():
        return "the worker ran out of memory"
    if isinstance(error, exceptions.RayActorError):
        return "the worker died"
    return f"the worker failed: {said}"

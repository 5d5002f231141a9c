"""A pool of Ray actors that evaluate, on this machine or a cluster. The only module that imports Ray.

The evaluator, with its weights and data, lies once in the object store, and all workers read it there; of images that
are kept in files it says where they lie, unless there are other machines. A worker that dies, runs out of memory or
takes too long is replaced, and its job tried again, a bounded number of times.
"""

import contextlib
import dataclasses
import os
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

# `uv run` would make Ray build a new environment for each worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import exceptions

from nas import registry
from nas.errors import RunError, UsageError
from nas.evaluators.base import Evaluator, Job, Report, run_job
from nas.interrupts import check, kept
from nas.tasks.data import travelling
from nas.training.compilation import CACHE

LISTEN_SECONDS = 5.0  # between two looks whether a signal came
START_SECONDS = 300.0  # after which a session without a free core is given up


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
    `listen` is called now and then while a report is waited for."""

    def __init__(
        self,
        evaluator: Evaluator,
        workers: int,
        *,
        trial_seconds: float = 0.0,
        attempts: int = 2,
        address: str | None = None,
        listen: Callable[[], None] = lambda: None,
    ):
        self._trial_seconds, self._attempts, self._address = trial_seconds, attempts, address
        self._listen = listen
        start_ray(workers, address)
        if ray.cluster_resources().get("CPU", 0) < 1:
            raise RunError("the Ray session that this process has joined has no core for a worker")
        with travelling() if _has_other_machines() else contextlib.nullcontext():
            self._evaluator = ray.put(evaluator)
        self._jobs: deque[Job] = deque()
        self._failures: Counter[int] = Counter()  # by job
        self._failed_starts = 0  # since the last success
        # Whether others have all cores of a session that is not ours, until a worker has started all the same.
        self._crowded = not _started and ray.available_resources().get("CPU", 0.0) < 1
        self._began = time.monotonic()
        self._workers: list[Any] = [None] * workers
        self._starting: dict[Any, int] = {}  # by reference, as are the running
        self._running: dict[Any, _Running] = {}
        self._idle: deque[int] = deque()
        for worker in range(workers):
            self._start(worker)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        self._assign()

    def wait(self) -> Report:
        while True:
            self._assign()  # a worker may have become idle by the report before, with jobs waiting
            soonest = min((each.deadline for each in self._running.values()), default=float("inf"))
            timeout = min(max(soonest - time.monotonic(), 0.01), LISTEN_SECONDS)
            check()
            ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=timeout)
            if not ready:
                self._listen()
            if not ready and self._crowded and time.monotonic() > self._began + START_SECONDS:
                raise RunError(
                    f"no worker could start in {START_SECONDS:g} s: all cores of the Ray session that this process has "
                    "joined are taken"
                )
            late = [ref for ref, each in self._running.items() if each.deadline < time.monotonic()]
            for reference in ready or late[:1]:
                if reference in self._starting:
                    self._started(reference)
                elif report := self._collect(reference, finished=bool(ready)):
                    return report

    def ready(self) -> bool:
        return bool(self._running) and bool(ray.wait([*self._running], num_returns=1, timeout=0)[0])

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._starting, self._running = [], {}, {}

    def _assign(self) -> None:
        while self._idle and self._jobs:
            worker, job = self._idle.popleft(), self._jobs.popleft()
            deadline = time.monotonic() + self._trial_seconds if self._trial_seconds else float("inf")
            self._running[self._workers[worker].run.remote(job)] = _Running(worker, job, deadline)

    def _start(self, worker: int) -> None:
        self._workers[worker] = self._spawn(worker, len(self._workers))
        self._starting[self._workers[worker].hold.remote(self._evaluator)] = worker

    def _started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= self._attempts * len(self._workers):
                raise RunError(f"workers cannot be started: {_one_line(error)}") from error
            self._start(worker)
        else:
            self._failed_starts, self._crowded = 0, False
            self._idle.append(worker)

    def _collect(self, reference: Any, finished: bool) -> Report | None:
        """The report of a job, or None where it goes back to the queue."""
        running = self._running.pop(reference)
        worker, job = running.worker, running.job
        reason = f"past its time limit of {self._trial_seconds:g} s"
        if finished:
            try:
                report: Report = ray.get(reference)
            except exceptions.RayError as error:
                reason = _reason(error)
            else:
                self._idle.append(worker)
                self._failures.pop(job.number, None)
                return report
        # An actor method cannot be cancelled: the process must go.
        ray.kill(self._workers[worker])
        self._start(worker)
        self._failures[job.number] += 1
        if self._failures[job.number] < self._attempts:
            self._jobs.appendleft(job)
            return None
        del self._failures[job.number]
        return Report(job.number, None, f"{reason} ({self._attempts} attempts)", 0.0)

    def _spawn(self, worker: int, workers: int) -> Any:
        cores: list[int] = []
        if self._address is None and hasattr(os, "sched_getaffinity"):
            # One core each, whatever their number: the same training then gives the same bits.
            mine = sorted(os.sched_getaffinity(0))
            cores = [mine[worker % len(mine)]]
        gpus = _gpus_each(workers)
        variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if gpus else {"JAX_PLATFORMS": "cpu"}
        if self._address is None:
            # Workers import what this process can import, whatever folder it was started from, and share its cache.
            variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            variables |= {name: os.environ[name] for name in (CACHE,) if name in os.environ}
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, runtime_env={"env_vars": variables})(_Worker)
        return actor.remote(registry.sources(), cores)


def start_ray(workers: int, address: str | None = None) -> None:
    """Starts Ray on this machine, or joins the cluster at the address; a session that the caller has is used as it is.

    Without an address it is a cluster of its own, whatever RAY_ADDRESS says and whatever runs on the machine.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    global _started
    if address is not None:
        try:
            with kept():
                ray.init(address, **quiet)
        except ValueError as error:
            raise UsageError(f"ray_address={address!r} must be auto, HOST:PORT or ray://HOST:PORT: {error}") from error
        except (ConnectionError, RuntimeError) as error:
            raise RunError(f"ray_address={address!r} cannot be joined: {error}") from error
        _started = True
        return
    with kept(), warnings.catch_warnings():
        # Ray starts its daemons by fork and exec at once, which JAX's threads do not mind.
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        try:
            ray.init(
                "local",
                num_cpus=workers,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                object_store_memory=2**30,
                _system_config={"worker_niceness": 0},  # else workers give way to every other process of the machine
                **quiet,
            )
        except Exception as error:  # Ray raises just that where its daemons are too slow, on a machine that is full
            said = " ".join(str(error).split())
            raise RunError(f"Ray did not start: {said} --workers 0 does without it") from error
    _started = True


_started = False  # whether the session is ours to end


def stop_ray() -> None:
    """Ends the session, or leaves the cluster, if it was begun by `start_ray`."""
    global _started
    if _started:
        ray.shutdown()
        _started = False


def _has_other_machines() -> bool:
    return any(node["Alive"] and node["NodeManagerHostname"] != socket.gethostname() for node in ray.nodes())


def _reason(error: exceptions.RayError) -> str:
    said = _one_line(error)
    if isinstance(error, exceptions.OutOfMemoryError | MemoryError) or "memory" in said.lower():
        return "the worker ran out of memory"
    if isinstance(error, exceptions.RayActorError):
        return "the worker died"
    return f"the worker failed: {said}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]


def _gpus_each(workers: int) -> float:
    gpus = ray.cluster_resources().get("GPU", 0)
    return min(1.0, gpus / workers)

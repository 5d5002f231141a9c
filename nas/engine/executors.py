"""Where evaluations run: in this process, one after another. A pool of Ray actors is in `nas.engine.ray_pool`."""

from collections import deque
from typing import Protocol, runtime_checkable

from nas.evaluators.base import Evaluator, Job, Report, run_job


@runtime_checkable
class Executor(Protocol):
    """Takes jobs and gives reports, in any order, exactly one a job."""

    def submit(self, job: Job) -> None: ...

    def wait(self) -> Report:
        """The next report; blocks until there is one."""
        ...

    def ready(self) -> bool:
        """Whether there is one to be had without waiting for another process."""
        ...

    def close(self) -> None: ...


class InProcess:
    """Evaluates when waited for, in the order of submission. No time limit, and no second try."""

    def __init__(self, evaluator: Evaluator):
        self._evaluator = evaluator
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self) -> Report:
        job = self._jobs.popleft()
        try:
            return run_job(self._evaluator, job)
        except MemoryError as error:
            return Report(job.number, None, f"out of memory: {error}", 0.0)

    def ready(self) -> bool:
        return bool(self._jobs)

    def close(self) -> None:
        self._jobs.clear()

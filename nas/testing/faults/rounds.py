"""A round: a job, a fault, a point, all drawn from a seed; and the law that the run is held to."""

import contextlib
import dataclasses
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import RunError, UsageError
from nas.testing.faults import records
from nas.testing.faults.injuries import SIGNALLED, Fault, Scene
from nas.testing.faults.jobs import JOBS, LOG, Job
from nas.testing.faults.places import Place, beside, place
from nas.testing.faults.processes import Command
from nas.testing.faults.ready import Ready
from nas.testing.faults.records import Broken, Known

POLL = 0.002  # seconds
MOST_STOPS = 3  # in one round
STOPPED_SECONDS = 15.0  # until a server notices that a client is gone


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: all that it left, how much was written, and for how long."""

    end: dict[str, Any]
    written: int
    seconds: float


@dataclasses.dataclass
class Outcome:
    seed: int
    job: str
    fault: str
    points: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    stops: int = 0  # commands that the fault ended, or disturbed
    broken: str | None = None
    seconds: float = 0.0

    @property
    def line(self) -> str:
        how = "equal" if self.broken is None else f"BROKEN: {self.broken}"
        told = "; ".join([*self.points, *self.notes])
        return f"seed {self.seed}, {self.job}, {self.fault} ({told}): {how}, {self.seconds:.0f} s"


class Rounds:
    """Rounds in a folder, of which each job's undisturbed run is done once. The files of jobs are in `files` there."""

    def __init__(
        self,
        folder: Path,
        server: str | None,
        faults: Sequence[Fault],
        jobs: Sequence[Job] = JOBS,
        ready: Ready | None = None,
    ):
        self._folder, self._server, self._faults, self._jobs, self._ready = folder, server, faults, jobs, ready
        self._undisturbed: dict[str, Undisturbed] = {}
        self._files = folder / "files"

    def run(self, seed: int, alter: Callable[[Place], None] | None = None) -> Outcome:
        """`alter` does something to the place before the run is gone on with for the last time."""
        draw, began = np.random.default_rng(seed), time.monotonic()
        fault, job = self._drawn(draw)
        outcome = Outcome(seed, job.name, fault.name)
        try:
            undisturbed = self._of(job)
            folder = self._folder / f"round-{seed}"
            with fault.setting(folder) as environment, self._placed(folder) as where:
                made = Round(job, fault, draw, where, undisturbed, self._files, environment, outcome, self._ready)
                _looked(made, alter)
        except Broken as broken:
            outcome.broken = str(broken)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _drawn(self, draw: np.random.Generator) -> tuple[Fault, Job]:
        """A fault, each as often as another, and a job that it can happen to."""
        on_server = self._server is not None
        pairs = {each.name: [job for job in self._jobs if each.fits(job, on_server)] for each in self._faults}
        faults = [each for each in self._faults if pairs[each.name]]
        fault = faults[int(draw.integers(len(faults)))]
        shares = np.array([job.share for job in pairs[fault.name]])
        return fault, pairs[fault.name][int(draw.choice(len(shares), p=shares / shares.sum()))]

    @contextlib.contextmanager
    def _placed(self, folder: Path):
        where = place(folder, self._server)
        try:
            yield where
        finally:
            where.close()
            shutil.rmtree(beside(folder), ignore_errors=True)
            for each in folder.iterdir():  # the folder itself may be a file system
                shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)

    def _of(self, job: Job) -> Undisturbed:
        if job.name not in self._undisturbed:
            with self._placed(self._folder / f"undisturbed-{len(self._undisturbed)}") as where:
                self._undisturbed[job.name] = undisturbed(job, where, self._files, self._ready)
        return self._undisturbed[job.name]


def _looked(made: "Round", alter: Callable[[Place], None] | None) -> None:
    """A round. Raises Broken where its store or its files can no longer be read."""
    try:
        made.run(alter)
    except (UsageError, RunError, OSError) as error:
        raise Broken(f"what is left cannot be looked at: {error}") from error


def undisturbed(job: Job, where: Place, files: Path, ready: Ready | None) -> Undisturbed:
    """Raises Broken where it does not end well, or evaluates something twice."""
    log, mark = beside(where.folder) / "log", uuid.uuid4().hex
    words, kept = [*job.line(files), *where.words], beside(where.folder)
    command = Command(words, where.folder, kept, mark, {LOG: str(log)}, ready=ready)
    first, began, written = where.written, None, 0
    while command.running():
        written = max(written, where.written)
        if began is None and written > first:
            began = time.monotonic()
        time.sleep(POLL)
    if command.wait() != 0 or began is None:
        raise Broken(f"undisturbed, it ends with {command.wait()}: {_last(command)}")
    seconds = time.monotonic() - began
    again = records.repeated(records.evaluated(log))
    if again is not None:
        raise Broken(f"undisturbed, {again}")
    with where.live() as store:
        return Undisturbed(records.end(store, command.answer), written, seconds)


class Round:
    def __init__(
        self,
        job: Job,
        fault: Fault,
        draw: np.random.Generator,
        where: Place,
        undisturbed: Undisturbed,
        files: Path,
        environment: dict[str, str],
        outcome: Outcome,
        ready: Ready | None,
    ):
        self._ready, self._commands = ready, list[Command]()
        self.job, self.fault, self.draw, self.where, self.outcome = job, fault, draw, where, outcome
        self._undisturbed, self._files = undisturbed, files
        self._log = beside(where.folder) / "log"
        self._environment = {LOG: str(self._log), **environment}
        self._mark = uuid.uuid4().hex
        self._known = Known(None, {})
        self._since = 0  # when the run was last gone on with, by the monotonic clock

    def run(self, alter: Callable[[Place], None] | None) -> None:
        """Raises Broken where the law does not hold."""
        try:
            for number in range(1 + int(self.draw.choice(MOST_STOPS, p=(0.6, 0.3, 0.1)))):
                if self._disturbed(number):
                    break
            if alter is not None:
                alter(self.where)
            answer = self._ended()
        finally:
            for command in self._commands:
                command.end()  # and whatever bears its mark
        with self.where.live() as store:
            end = records.end(store, answer)
        _hold(records.difference(end, self._undisturbed.end))

    def _command(self, name: str, words: list[str]) -> Command:
        written = beside(self.where.folder)
        command = Command(words, self.where.folder, written, self._mark, self._environment, name, self._ready)
        self._commands.append(command)
        return command

    def _go_on(self, name: str) -> Command:
        """As a user does: by the command that was interrupted where nothing of it was stored, else by --resume."""
        if self._known.status is None:
            return self._command(name, [*self.job.line(self._files), *self.where.words])
        return self._resume(name)

    def _resume(self, name: str) -> Command:
        return self._command(name, ["search", "--resume", "job", "--workers", str(self.job.workers), *self.where.words])

    def _disturbed(self, number: int) -> bool:
        """Whether a command that was disturbed has ended the run all the same."""
        command = self._go_on(f"command-{number}")
        scene = Scene(self.job, self.where, command, self.draw, self._resume)
        self._wait(command)
        before = self._now() if command.running() else Known(None, {})
        allowed = self.fault.inject(scene) if command.running() else set()
        self.outcome.stops += 1
        status = command.wait()
        for other in scene.others:
            self._check_end(other, {2}, "another command")
        self._check_end(command, allowed, "the command")
        if self.fault.tear is not None:
            self.fault.tear(scene)
        self.outcome.notes += scene.notes
        self._check_left(before, status)
        self.fault.mend(scene)
        self._refused(scene)
        return status == 0

    def _wait(self, command: Command) -> None:
        """Until a point that is drawn: so much was written, or so much time went by since something was."""
        share, by_bytes = float(self.draw.random()), self.draw.random() < 0.5
        first, began = self.where.written, None
        target = first + share * max(self._undisturbed.written - first, 10_000)
        seconds = share * self._undisturbed.seconds
        self.outcome.points.append(f"{share:.1%} of {'what was written' if by_bytes else 'the time'}")
        while command.running():
            written = self.where.written
            if began is None and written != first:
                began = time.monotonic()
            if written >= target if by_bytes else began is not None and time.monotonic() > began + seconds:
                break
            time.sleep(POLL)
        if by_bytes:
            time.sleep(float(self.draw.exponential(0.005)))

    def _now(self) -> Known:
        """What another process is told while the job runs. Nothing where there is no store yet."""
        try:
            with self.where.live() as store:
                return records.known(store)
        except (UsageError, RunError):
            return Known(None, {})

    def _check_end(self, command: Command, allowed: set[int], who: str) -> None:
        status, said = command.wait(), _last(command)
        if status is None:
            raise Broken(f"{who} did not end: {said}")
        if status not in allowed | {0}:
            raise Broken(f"{who} ended with {status}, which is none of {sorted(allowed | {0})}: {said}")
        if "Traceback" in command.said:
            raise Broken(f"{who} ended with a traceback: {said}")
        left = command.left()
        if left:
            raise Broken(f"{len(left)} processes outlive {who}, such as {left[0].name[:100]}")

    def _check_left(self, before: Known, status: int | None) -> None:
        """Nothing that was acknowledged is lost; and what is said of the run is true."""
        deadline = time.monotonic() + STOPPED_SECONDS
        while True:
            with self.where.look() as store:
                left = records.known(store)
            if left.status != "running" or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if not self.fault.forgets:
            _hold(records.lost(before, left))
            _hold(records.lost(Known(None, self._known.reported), left))
        if left.status == "running":
            raise Broken("the run is said to run, and its process has ended")
        if left.status == "finished" and not self._is_whole(left):
            raise Broken("the run is said to have finished, and trials are missing")
        if status == -signal.SIGTERM and left.status != "finished":
            raise Broken(f"SIGTERM was not heard, and the run is said to be {left.status}")
        if status in SIGNALLED and before.trials and left.status not in ("interrupted", "finished"):
            raise Broken(f"the run was interrupted, and is said to be {left.status}")
        lines = records.evaluated(self._log)
        if self.job.counts and not self.fault.forgets:
            _hold(records.twice(self._known, self._since, lines))
        self._known, self._since = left, time.monotonic_ns()

    def _is_whole(self, left: Known) -> bool:
        return len(left.reported) == sum(name.startswith("state of") for name in self._undisturbed.end)

    def _refused(self, scene: Scene) -> None:
        """A file that was damaged is refused in one line that names it; without it, the run goes on."""
        if scene.damaged is None:
            return
        command = self._resume("refused")
        status = command.wait()
        if status == 2 and scene.damaged.name in _last(command) and "Traceback" not in command.said:
            scene.damaged.unlink()
            self.outcome.notes.append("refused")
        elif status == 0:
            self.outcome.notes.append("redone")
        else:
            raise Broken(f"with a damaged {scene.damaged.name} the run ends with {status}: {_last(command)}")

    def _ended(self) -> str:
        command = self._go_on("last")
        self._check_end(command, set(), "the last command")
        lines = records.evaluated(self._log)
        if self.job.counts and not self.fault.forgets:
            _hold(records.twice(self._known, self._since, lines))
        with self.where.look() as store:
            left = records.known(store)
        _hold(records.lost(Known(None, self._known.reported), left))
        return command.answer


def _hold(broken: str | None) -> None:
    if broken is not None:
        raise Broken(broken)


def _last(command: Command) -> str:
    lines = [line for line in command.said.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"

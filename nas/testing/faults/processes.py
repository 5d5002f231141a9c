"""Commands in process groups of their own, and all processes that came of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nas.testing.faults.ready import Forked, Ready

MARK = "NAS_FAULTS_ROUND"  # in the environment of all that came of a command
PATIENCE = 900.0  # seconds for a command, on whatever machine
GONE_SECONDS = 120.0  # for what a dead driver leaves: agents of Ray first wait for their GCS, by default for a minute


class Process(NamedTuple):
    """One of this machine; `started` tells it from a later one with its number."""

    pid: int
    parent: int
    started: int
    state: str
    name: str  # its command line


class Command:
    """A command of ours that runs, as one from a shell: `words` follow `nas`."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        written: Path,
        mark: str,
        environment: dict[str, str],
        name: str = "undisturbed",
        ready: Ready | None = None,
    ):
        """It runs in the folder. What it writes is kept in files of the folder `written` that begin with the name.
        It is forked from the process that is `ready`, if there is one and it has not to be told of libraries."""
        self._out, self._said, self._mark = written / f"{name}.out", written / f"{name}.said", mark
        self._seen: dict[int, Process] = {}
        given = {**os.environ, MARK: mark, "COLUMNS": "120", "PYTHONWARNINGS": "ignore", **environment}
        given.pop("PYTHONDONTWRITEBYTECODE", None)  # else each command compiles all of JAX's modules anew, for 3 s
        with open(self._out, "wb") as out, open(self._said, "wb") as said:
            how = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": said, "start_new_session": True}
            line = [sys.executable, "-c", START, *words]
            self.process: subprocess.Popen[Any] | Forked
            if ready is None or "LD_PRELOAD" in environment:
                self.process = subprocess.Popen(line, cwd=folder, env=given, **how)
            else:
                self.process = ready.begin(words, folder, self._out, self._said, given)

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Its exit status; None where it is killed for not ending in so long."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return None

    def end(self) -> None:
        """Kills all of it."""
        for process in self.processes():
            send(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def processes(self) -> list[Process]:
        """All that came of it and run, also those whose parent has died."""
        there = running()
        mine = {pid: there[pid] for pid in self._seen if pid in there and there[pid].started == self._seen[pid].started}
        mine |= {pid: process for pid, process in there.items() if pid not in mine and _has_mark(pid, self._mark)}
        if self.pid in there and self.running():
            mine[self.pid] = there[self.pid]
        while new := [process for pid, process in there.items() if process.parent in mine and pid not in mine]:
            mine |= {process.pid: process for process in new}
        self._seen |= mine
        return [process for process in mine.values() if process.state != "Z"]

    def left(self, seconds: float | None = None) -> list[Process]:
        """Those that outlive it by so long, by default by `GONE_SECONDS`."""
        deadline = time.monotonic() + (GONE_SECONDS if seconds is None else seconds)
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    @property
    def said(self) -> str:
        """What it wrote to standard error."""
        return self._said.read_text(errors="replace")

    @property
    def answer(self) -> str:
        return self._out.read_text(errors="replace")


# A shell that is not interactive, and tests, may have made this process deaf to Ctrl-C; a user's command is not.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from nas.__main__ import run
run()
"""


def running() -> dict[int, Process]:
    """The processes of this machine by number."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(name)] = Process(int(name), int(fields[1]), int(fields[19]), fields[0], line)
    return found


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def send(process: Process, which: signal.Signals) -> None:
    """To this very process; nothing where it has ended."""
    now = running().get(process.pid)
    if now is not None and now.started == process.started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, which)

"""A process that has imported what commands import, and that forks into one when it is asked to: it saves each 2 s.

It is told of a command by a message on a socket, and answers with the number of its process, and later its status.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST = 2**17  # bytes of a message
# What takes most of the time to import, and has no threads: they do not live on in a fork.
IMPORTED = ("nas.commands.cli", "nas.job.run", "spaces.shufflenet", "spaces.nasbench201", "strategies.archive")
IMPORTED += ("predictors.base", "alembic.command", "rich.progress", "scipy.special")


class Forked:
    """A command, in what `subprocess.Popen` says of one."""

    def __init__(self, ready: "Ready", pid: int):
        self._ready, self.pid = ready, pid

    @property
    def returncode(self) -> int | None:
        return self._ready.ended.get(self.pid)

    def poll(self) -> int | None:
        self._ready.hear(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.returncode) is None:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self._ready.hear(left) and left is not None:
                raise subprocess.TimeoutExpired("nas", timeout or 0.0)
        return status


class Ready:
    def __init__(self, mine: socket.socket):
        self._socket, self._begun = mine, list[int]()
        self.ended: dict[int, int] = {}

    def begin(self, words: Sequence[str], folder: Path, out: Path, said: Path, given: Mapping[str, str]) -> Forked:
        asked = {"words": list(words), "folder": str(folder), "out": str(out), "said": str(said), "given": dict(given)}
        self._socket.send(json.dumps(asked).encode())
        while not self._begun:
            self.hear(None)
        pid = self._begun.pop()
        self.ended.pop(pid, None)  # of an earlier one with its number
        return Forked(self, pid)

    def hear(self, seconds: float | None) -> bool:
        """Whether there was something to hear within so many seconds; None is as long as it takes."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return False
        message = self._socket.recv(LONGEST)
        if not message:
            raise RuntimeError("the process that commands are forked from has died")
        told = json.loads(message)
        if "status" in told:
            self.ended[told["pid"]] = told["status"]
        else:
            self._begun.append(told["pid"])
        return True


@contextlib.contextmanager
def ready() -> Iterator[Ready]:
    """The process is there until the block ends."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = [sys.executable, "-m", __name__, str(its.fileno())]
    with mine, subprocess.Popen(line, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True):
        its.close()
        try:
            yield Ready(mine)
        finally:
            mine.close()  # at which it ends


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    run = pkgutil.resolve_name("nas.__main__:run")
    asked, running = socket.socket(fileno=int(sys.argv[1])), dict[int, int]()
    while True:
        for one in select.select([asked.fileno(), *running], [], [])[0]:
            if one in running:
                os.close(one)
                pid = running.pop(one)
                told: dict[str, Any] = {"pid": pid, "status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
                asked.send(json.dumps(told).encode())
            elif message := asked.recv(LONGEST):
                if (pid := os.fork()) == 0:
                    asked.close()
                    for other in running:
                        os.close(other)
                    _become(json.loads(message))
                    run()
                while os.getsid(pid) != pid:
                    time.sleep(0.0005)
                running[os.pidfd_open(pid)] = pid
                asked.send(json.dumps({"pid": pid}).encode())
            else:
                return


def _become(asked: dict[str, Any]) -> None:
    """What a command is that a shell has started."""
    os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["given"])
    for number, path in ((1, asked["out"]), (2, asked["said"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["nas", *asked["words"]]


if __name__ == "__main__":
    main()

"""One process a run: a lock on a file of the run's folder, which the kernel frees however the process ends."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nas.errors import UsageError, unwritable
from nas.plain import check_regular

NAME = "lock"
PATIENCE = 1.0  # seconds: somebody who only asks holds the lock for an instant


@contextlib.contextmanager
def locked(folder: Path, run: str) -> Iterator[None]:
    """Raises UsageError where another process has the run, or where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.exists(folder / NAME):
            check_regular(f"{folder / NAME}", folder / NAME)  # to open a pipe may never end
        file = open(folder / NAME, "a")  # noqa: SIM115
    except OSError as error:
        raise unwritable(folder, error, "make it writable") from error
    with file:
        deadline = time.monotonic() + PATIENCE
        try:
            while not _taken(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise UsageError(f"run={run!r} is running in another process")
                time.sleep(0.02)
        except OSError as error:
            said = f"{folder} is on a file system that cannot lock files: {error.strerror}; put the store on another"
            raise UsageError(said) from error
        yield


def is_locked(folder: Path) -> bool | None:
    """Whether a process has the run; None where this machine cannot tell, for the folder is on another one."""
    try:
        if os.path.exists(folder / NAME) and not os.path.isfile(folder / NAME):
            return None
        with open(folder / NAME) as file:
            return not _taken(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False if folder.is_dir() else None  # its process ended before it could take it
    except OSError:
        return None


def _taken(file, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

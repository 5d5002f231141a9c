"""Folders that are filled before others see them. What a process that was killed has left of one goes when the next is
begun beside it."""

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"
FRESH = 60.0  # seconds in which a folder may not yet have its lock


@contextlib.contextmanager
def begun(root: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `root` whose name begins with a prefix that no other folders have. When the block has ended it is
    gone, unless it was moved."""
    _tidy(root, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        with open(folder / LOCK, "w") as lock:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tidy(root: Path, prefix: str) -> None:
    """Removes folders that were begun by processes that have ended."""
    for folder in root.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < FRESH:
                continue
            with contextlib.suppress(FileNotFoundError), open(folder / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process lives
            shutil.rmtree(folder, ignore_errors=True)

"""Where the files of runs lie: in one folder a store, in which each run and each predictor has one of its own."""

import contextlib
import dataclasses
import itertools
import os
import shutil
from pathlib import Path

from nas.errors import RunError, UsageError, unwritable
from nas.store.lock import NAME as LOCK
from nas.store.query import Row, Run


@dataclasses.dataclass(frozen=True)
class Files:
    """`root` is the folder of them all. What a database says of paths is relative to it where `moves`: files beside a
    SQLite file move with that. Where the user has `given` the folder, files are in it whatever path was kept: another
    machine may call it otherwise."""

    root: Path
    moves: bool
    given: bool = False

    def new_folder(self, name: str, within: str = "") -> Path:
        """Makes a folder for files that nobody else has, named after what they are of: what is there is left alone."""
        for i in itertools.count(1):
            folder = self.root / within / (name if i == 1 else f"{name}~{i}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise unwritable(folder, error) from error
            return folder
        raise AssertionError

    def folder(self, run: Run) -> Path:
        """Of the files of a run. Raises UsageError where the database says that they are somewhere else."""
        named = run.config.get("files", run.name)
        if not isinstance(named, str):
            raise UsageError(f"run={run.name!r} is damaged: its files={named!r} are not in a folder")
        folder = Path(os.path.abspath(self._here(named)))
        # Whoever wrote the database could name any folder, and `delete` empties it.
        inside = folder.parent == self.root or (Path(named).is_absolute() and folder.parent.name == self.root.name)
        if not inside or folder.name.startswith("."):  # as that of all predictors
            said = f"are not those of a run in {self.root}, and are not touched"
            raise UsageError(f"run={run.name!r}: its files={str(folder)!r} {said}")
        return folder

    def named(self, folder: Path) -> str:
        """A folder of a run as it is kept."""
        return folder.name if self.moves else str(folder)

    def kept(self, path: str | Path) -> str:
        """A path as it is kept."""
        path = self.root / path
        return str(path.relative_to(self.root) if self.moves and path.is_relative_to(self.root) else path)

    def placed(self, row: Row) -> Row:
        """With the path as it is on this machine."""
        return row | {"path": str(self._here(row["path"]))}

    def _here(self, path: str) -> Path:
        parts = Path(path).parts
        if self.given and Path(path).is_absolute() and self.root.name in parts:
            after = len(parts) - parts[::-1].index(self.root.name)
            return self.root.joinpath(*parts[after:])
        return self.root / path

    def of(self, run: Run) -> list[str]:
        """The names of the files of a run."""
        with contextlib.suppress(UsageError, OSError):  # the folder may be nowhere
            return [name for name in os.listdir(self.folder(run)) if name != LOCK]
        return []

    def check_own(self, run: Run, others: list[Run]) -> Path:
        """The folder of a run, which is about to be deleted. Raises UsageError where it is that of another run too."""
        folder = self.folder(run)
        for other in others:
            if other.id != run.id and self._has(other, folder):
                said = f"are those of {other.name!r} too, and are not touched"
                raise UsageError(f"run={run.name!r} is damaged: its files={str(folder)!r} {said}")
        return folder

    def _has(self, run: Run, folder: Path) -> bool:
        with contextlib.suppress(UsageError):  # they may be nowhere
            return self.folder(run) == folder
        return False


def empty(folder: Path, gone: str) -> None:
    """Deletes all but the lock. Raises RunError where it cannot; `gone` says what is gone already."""
    try:
        if folder.is_symlink():
            raise OSError("it is a link")
        for path in folder.iterdir() if folder.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    except OSError as error:
        said = f"{gone}, but not all of its files in {folder}: {error.strerror or error}"
        raise RunError(f"{said}; mend that, then delete the run again") from error


def ready(folder: Path) -> Path:
    """The folder, which is made where it is not there. Raises UsageError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder

"""Arrays and a JSON note in one safetensors file, written whole or not at all."""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nas.errors import UsageError, one_line
from nas.plain import UNFINISHED, check_regular, from_json, shown, write_whole

FORMAT = 1  # of the note beside the weights of an architecture
CHECKSUM = "crc32"  # in the note: of the bytes of all arrays, in the order of their names


def write(path: Path, arrays: dict[str, np.ndarray], note: dict) -> None:
    """Replaces the file atomically and durably. A crash leaves the old file or the new one."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(path, save(whole, {"note": json.dumps({**note, CHECKSUM: _checksum(whole)})}))


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, found)
    return found


def tidy(folder: Path) -> None:
    """Removes what a process had begun to write in a folder when it was killed. For whoever alone writes there."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the note. Raises UsageError for a file that is missing, damaged, or not one of ours."""
    with _opened(path) as (file, note):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Earlier versions, and files that others wrote, have none.
        if note.pop(CHECKSUM, None) not in (None, _checksum(arrays)):
            raise ValueError("its checksum is another")
        return arrays, note


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict]]:
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    check_regular(f"{path}", path)
    try:
        with safe_open(path, framework="numpy") as file:
            note = from_json((file.metadata() or {})["note"])
            if not isinstance(note, dict):
                raise ValueError("its note is no mapping")
            yield file, note
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise UsageError(f"{path} is not a whole weights file of this library: {shown(one_line(error))}") from error


def note_of(path: Path) -> dict:
    """The note alone. Raises UsageError as `read` does."""
    with _opened(path) as (_, note):
        note.pop(CHECKSUM, None)
        return note


def step_of(path: Path) -> int:
    """How many steps a checkpoint is the progress of; 0 where there is none that says so."""
    with contextlib.suppress(UsageError, KeyError, TypeError, ValueError, OverflowError):
        return int(note_of(path)["step"]) if path.exists() else 0
    return 0


def digest(path: Path) -> str:
    """The sha256 of a file, as it is kept with artifacts. Raises UsageError where there is none."""
    check_regular(f"{path}", path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error

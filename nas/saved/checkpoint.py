"""Arrays and a JSON note in one safetensors file, written whole or not at all."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nas.errors import UsageError, unwritable
from nas.plain import check_regular, from_json, shown

FORMAT = 1  # of the note beside the weights of an architecture


def write(path: Path, arrays: dict[str, np.ndarray], note: dict) -> None:
    """Replaces the file atomically and durably. A crash leaves the old file or the new one."""
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {"note": json.dumps(note)})
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise unwritable(path, error) from error


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the note. Raises UsageError for a file that is missing, damaged, or not one of ours."""
    with _opened(path) as (file, note):
        return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict]]:
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    check_regular(f"{path}", path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file, from_json((file.metadata() or {})["note"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise UsageError(
            f"{path} is not a whole weights file of this library: {shown(' '.join(str(error).split()))}"
        ) from error


def note_of(path: Path) -> dict:
    """The note alone. Raises UsageError as `read` does."""
    with _opened(path) as (_, note):
        return note


def digest(path: Path) -> str:
    """The sha256 of a file, as it is kept with artifacts."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

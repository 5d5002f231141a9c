"""States of files that a power cut leaves: a log, a store or a checkpoint that was written up to some byte."""

import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np

from nas.plain import UNFINISHED
from nas.testing.faults.places import log_of, size

HEADER, FRAME = 32, 24  # bytes of a write-ahead log, and before each page in it: https://sqlite.org/walformat.html


def log_tail(store: Path, draw: np.random.Generator) -> str:
    """Ends the log at any byte behind what is durable, or leaves parts of a transaction there that never ended."""
    log = log_of(store)
    durable = acknowledged(store)
    data = log.read_bytes() if log.exists() else b""
    kept = data[: int(draw.integers(durable, len(data) + 1))] if len(data) > durable else data
    more = b""
    if len(kept) == durable and durable > HEADER and draw.random() < 0.8:
        start = int(draw.integers(HEADER, durable))
        more = data[start : start + int(draw.integers(1, 20_000))] if draw.random() < 0.7 else bytes(5000)
    if data:
        log.write_bytes(kept + more)
    forget_index(store)
    return f"log of {len(data)} bytes, {durable} durable, cut to {len(kept)} and {len(more)} others"


def log_anywhere(store: Path, draw: np.random.Generator) -> str:
    """Ends the log at any byte: a disk that had said that all was written, or a copy that was made too early."""
    log = log_of(store)
    data = log.read_bytes() if log.exists() else b""
    kept = int(draw.integers(0, len(data) + 1))
    if data:
        log.write_bytes(data[:kept])
    forget_index(store)
    return f"log cut from {len(data)} to {kept} bytes"


def pages(store: Path, draw: np.random.Generator) -> str:
    """Pages of the store that the log holds too, each written up to some byte: the machine went down while the one was
    copied into the other."""
    log, durable = log_of(store), acknowledged(store)
    data, torn = log.read_bytes() if log.exists() else b"", 0
    if durable > HEADER:
        page = struct.unpack(">I", data[8:12])[0]
        frames = range(HEADER, durable - FRAME - page + 1, FRAME + page)
        last = {struct.unpack(">I", data[at : at + 4])[0]: at for at in frames}  # of each page what is written in it
        with open(store, "r+b") as file:
            for number, at in last.items():
                if draw.random() < 0.5:
                    file.seek((number - 1) * page)
                    file.write(data[at + FRAME : at + FRAME + int(draw.integers(0, page + 1))])
                    torn += 1
    forget_index(store)
    return f"{torn} pages torn"


def acknowledged(store: Path) -> int:
    """The bytes of the log that SQLite has told other processes of, which it does once they are durable."""
    log, index = log_of(store), store.with_name(store.name + "-shm")
    if size(log) <= HEADER:
        return 0
    (page,) = struct.unpack(">I", log.read_bytes()[8:12])
    start = index.read_bytes()[:20] if index.exists() else b""
    frames = struct.unpack("=I", start[16:20])[0] if len(start) == 20 else 2**31
    return min(HEADER + frames * (FRAME + page), size(log))


def forget_index(store: Path) -> None:
    """The index of the log is memory that processes share; SQLite makes it anew."""
    store.with_name(store.name + "-shm").unlink(missing_ok=True)


def temporary(folder: Path, draw: np.random.Generator) -> str:
    """Leaves the beginning of a checkpoint that was being written."""
    if (file := newest(folder)) is None:
        return "no checkpoint yet"
    data = file.read_bytes()
    kept = int(draw.integers(0, len(data) + 1))
    unfinished = file.with_name(file.name + UNFINISHED)
    unfinished.write_bytes(data[:kept])
    return f"{kept} of {len(data)} bytes of {unfinished.name}"


def checkpoint(folder: Path, draw: np.random.Generator, noted: Collection[Path] = ()) -> tuple[str, Path | None]:
    """Damages the newest checkpoint, which no power cut does to what is durable, but disks do. Not a file that the
    store has noted: its stage is over, and whoever reads it compares its sha256."""
    if (file := newest(folder, noted)) is None:
        return "no checkpoint yet", None
    data = file.read_bytes()
    kept = int(draw.integers(0, len(data)))
    zeros = len(data) - kept if draw.random() < 0.5 else 0
    file.write_bytes(data[:kept] + bytes(zeros))
    if data == data[:kept] + bytes(zeros):
        return "only zeros were cut", None
    return f"{file.name} ends at byte {kept} of {len(data)}{', then zeros' if zeros else ''}", file


def newest(folder: Path, noted: Collection[Path] = ()) -> Path | None:
    files = [path for path in folder.rglob("*.safetensors") if path not in noted]
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)

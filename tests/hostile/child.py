"""Reads cases one after another, in bounded memory, and says of each in a line of JSON how it went."""

import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import RunError, UsageError
from tests.hostile import directed
from tests.hostile.changes import changed, pick
from tests.hostile.readers import READERS, Reader
from tests.hostile.samples import TABLE, Files

MOST_MEMORY = 700 * 2**20  # that a case may take beyond what the process has
MOST_ADDRESSES = 6 * 2**30
MOST_SECONDS = 10.0  # of the processor
ROOT = Path(__file__).parents[2]
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn")
RUNS += ("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class", "urllib.Request", "code.__new__")
READABLE = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, ROOT)))
READABLE += ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/", "/etc/localtime", "/etc/mime.types", str(TABLE))


class Watch:
    """What the interpreter does while a case is read: see `sys.addaudithook`."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in RUNS:
            self.seen.append(f"{event}{str(arguments)[:200]}")
        elif event in ("open", "sqlite3.connect") and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]).removeprefix("file://").partition("?")[0])
            reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            written = path.startswith((self.folder, os.environ.get("JAX_COMPILATION_CACHE_DIR", self.folder)))
            if not written and not (reads and path.startswith(READABLE)):
                self.seen.append(f"{event} {path[:200]}")
        elif event == "exec" and arguments[0].co_filename.startswith(self.folder):
            self.seen.append(f"exec {arguments[0].co_filename}")


def main(start: int, plan: list[tuple[str, int]], seed: int) -> None:
    readers = {reader.name: reader for reader in READERS}
    made: dict[str, Files] = {}
    watch = Watch()
    for number, (name, i) in enumerate(plan):
        if number < start:
            continue
        reader = readers[name]
        if name not in made:
            made[name] = warmed(reader)
        said({"case": number})
        said({"case": number, **attempted(reader, made[name], i, seed, watch)})


def said(what: dict[str, Any]) -> None:
    print(json.dumps(what), file=sys.__stdout__, flush=True)


def warmed(reader: Reader) -> Files:
    """The files of a good sample, which is read once: what is imported and compiled for it is not of a case."""
    files = reader.sample()
    with tempfile.TemporaryDirectory() as name:
        put(files, Path(name))
        reader.read(Path(name))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_ADDRESSES, resource.RLIM_INFINITY))
    return files


def put(files: Files, folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def attempted(reader: Reader, files: Files, i: int, seed: int, watch: Watch) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="case-"))
    try:
        special = directed.of(reader.name)
        if i < len(special):
            put(files, folder)
            special[i][1](folder)
            what = special[i][0]
        else:
            random = np.random.default_rng([seed, i, zlib.crc32(reader.name.encode())])
            name = pick(random, sorted(files))
            put({**files, name: changed(name, files[name], random)}, folder)
            what = name
        return {"what": what, **outcome(reader, folder, watch)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def outcome(reader: Reader, folder: Path, watch: Watch) -> dict[str, Any]:
    before, began = forgotten(), time.process_time()
    watch.folder, watch.seen = os.path.realpath(folder), []
    fault, refusal = None, ""
    try:
        found = reader.read(folder)
        if not all(np.isfinite(np.asarray(each, float)).all() for each in numbers(found)):
            fault = "numbers that are not finite"
    except Exception as error:
        refusal = str(error)
        if not isinstance(error, UsageError | RunError):
            place = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in place if str(ROOT) in frame.filename and ".venv" not in frame.filename]
            at = f"{ours[-1].filename.removeprefix(str(ROOT))}:{ours[-1].lineno}" if ours else ""
            fault = f"{type(error).__name__}: {refusal[:200]} at {at}"
    finally:
        watch.folder = None
    seconds, memory = time.process_time() - began, peak() - before
    if fault is None and refusal.count("\n"):
        fault = f"a refusal of {refusal.count(chr(10)) + 1} lines: {refusal[:200]!r}"
    if watch.seen:
        fault = f"does more than read: {watch.seen[0]}"
    if memory > MOST_MEMORY:
        fault = f"takes {memory >> 20} MiB"
    if seconds > MOST_SECONDS:
        fault = f"takes {seconds:.0f} s"
    how = "fault" if fault else "refused" if refusal else "loaded"
    return {"how": how, "said": fault or refusal[:300], "seconds": round(seconds, 3), "mib": memory >> 20}


def numbers(found: Any) -> Iterator[Any]:
    if isinstance(found, list | tuple):
        for each in found:
            yield from numbers(each)
    elif found is not None:
        yield found


def forgotten() -> int:
    """Lets the kernel forget the most memory that there was; what there is now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    plan_file, first, number = sys.argv[1:]
    main(int(first), json.loads(Path(plan_file).read_text()), int(number))

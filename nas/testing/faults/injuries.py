"""The faults: each disturbs a command that runs, and says with which statuses it may end."""

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nas.testing.faults import torn
from nas.testing.faults.jobs import Job
from nas.testing.faults.places import Place, Schema, beside, log_of, size
from nas.testing.faults.processes import Command, Process, send

INTERRUPTED = 130  # the exit status, of the commands and of this one
DRIVER, SIGNALLED = {-signal.SIGKILL}, {INTERRUPTED}
TOO_LATE = -signal.SIGTERM  # when the run has finished, nobody listens any more
DISK = 2**26  # bytes of the small one
CLOCK = max(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), default=None)  # of Debian's package faketime


@dataclasses.dataclass
class Scene:
    """What a fault works on."""

    job: Job
    place: Place
    command: Command
    draw: np.random.Generator
    go_on: Callable[[str], Command]  # begins another command that goes on with the run
    notes: list[str] = dataclasses.field(default_factory=list)
    others: list[Command] = dataclasses.field(default_factory=list)
    damaged: Path | None = None  # what may be refused when the run goes on

    def pause(self, most: float) -> float:
        seconds = float(self.draw.uniform(0, most))
        time.sleep(seconds)
        return seconds


@contextlib.contextmanager
def nothing(folder: Path) -> Iterator[dict[str, str]]:
    del folder
    yield {}


@dataclasses.dataclass(frozen=True)
class Fault:
    """`inject` gives the statuses with which the command may end, besides 0 where it had ended before. `tear` changes
    what a dead command has left. `setting` makes the round's folder, and gives what is in the environment."""

    name: str
    inject: Callable[[Scene], set[int]]
    fits: Callable[[Job, bool], bool] = lambda job, on_server: True
    tear: Callable[[Scene], None] | None = None
    forgets: bool = False  # what was acknowledged, by the law of a disk that lies
    mend: Callable[[Scene], None] = lambda scene: None  # what a user does before going on
    setting: Callable[[Path], contextlib.AbstractContextManager[dict[str, str]]] = nothing


def driver(scene: Scene) -> set[int]:
    send(_of(scene.command), signal.SIGKILL)
    return DRIVER


def _of(command: Command) -> Process:
    """The driver; where that has ended, one that nothing is sent to."""
    return next((each for each in command.processes() if each.pid == command.pid), Process(-1, 0, 0, "Z", ""))


def whole_group(scene: Scene) -> set[int]:
    for process in scene.command.processes():
        send(process, signal.SIGKILL)
    return DRIVER


def _kill_of_ray(scene: Scene, names: Sequence[str]) -> bool:
    deadline = time.monotonic() + 60
    while scene.command.running() and time.monotonic() < deadline:
        found = [each for each in scene.command.processes() if any(name in each.name for name in names)]
        if found:
            chosen = found[int(scene.draw.integers(len(found)))]
            scene.notes.append(chosen.name.split()[0].rpartition("/")[2])
            send(chosen, signal.SIGKILL)
            return True
        time.sleep(0.01)
    return False


def worker(scene: Scene) -> set[int]:
    _kill_of_ray(scene, ["ray::_Worker"])
    return set()  # it goes on with another


def daemon(scene: Scene) -> set[int]:
    _kill_of_ray(scene, ["/raylet/raylet", "/gcs/gcs_server"])
    return {1}


def terminated(scene: Scene) -> set[int]:
    send(_of(scene.command), signal.SIGTERM)
    return {*SIGNALLED, TOO_LATE}


def interrupted(scene: Scene) -> set[int]:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(scene.command.pid, signal.SIGINT)  # as a terminal does
    return SIGNALLED


def stopped(scene: Scene) -> set[int]:
    """While it has stopped, nobody else may have its run."""
    one = _of(scene.command)
    send(one, signal.SIGSTOP)
    if scene.draw.random() < 0.5:
        other = scene.go_on("other")
        scene.others.append(other)
        scene.notes.append(f"another ended with {other.wait()}")
    else:
        scene.notes.append(f"for {scene.pause(2.0):.1f} s")
    send(one, signal.SIGCONT)
    # Before it had the run, the other has taken it.
    return {2} if scene.others and scene.others[-1].process.returncode == 0 else set()


def overtaken(scene: Scene) -> set[int]:
    """The server ends the sessions of one that has stopped; another goes on with its run, and it awakes."""
    assert isinstance(scene.place, Schema)
    one = _of(scene.command)
    send(one, signal.SIGSTOP)
    scene.place.proxy.cut()
    other = scene.go_on("other")
    scene.others.append(other)
    if scene.draw.random() < 0.5:
        other.wait()
    else:
        scene.notes.append(f"awakes after {scene.pause(4.0):.1f} s")
    send(one, signal.SIGCONT)
    scene.notes.append(f"another ended with {other.wait()}")
    return {2}


def small_files(scene: Scene) -> set[int]:
    """No file grows any more; as on a full disk, but short ones can still be written."""
    most = size(log_of(scene.place.folder / "nas.db")) + int(scene.draw.integers(4096, 50_000))
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(scene.command.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    scene.notes.append(f"files of {most} bytes")
    return {1}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[dict[str, str]]:
    """The round's folder is a file system of its own, in memory."""
    folder.mkdir()
    how = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "nas-faults", str(folder)]
    subprocess.run(how, check=True)
    try:
        yield {}
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()


def may_mount() -> bool:
    """Whether this process may mount; tried once, for root of a container may not."""
    if os.geteuid() or not shutil.which("mount"):
        return False
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk"):
                return True
        except (subprocess.CalledProcessError, OSError):
            return False


def full(scene: Scene) -> set[int]:
    left = int(scene.draw.integers(0, 50_000))
    with open(scene.place.folder / "ballast", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(max(file.tell() - left, 0))
    scene.notes.append(f"{left} bytes left")
    return {1}


def free(scene: Scene) -> None:
    (scene.place.folder / "ballast").unlink(missing_ok=True)


@contextlib.contextmanager
def own_clock(folder: Path) -> Iterator[dict[str, str]]:
    beside(folder).mkdir()
    clock = beside(folder) / "clock"
    clock.write_text("+0\n")
    # The monotonic clock does not jump.
    settings = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    yield {"LD_PRELOAD": str(CLOCK), **settings}


def jump(scene: Scene) -> set[int]:
    """The clock jumps by up to 30 days, and half of the commands are killed soon after."""
    seconds = int(scene.draw.integers(-30 * 86400, 30 * 86400))
    (beside(scene.place.folder) / "clock").write_text(f"{seconds:+d}\n")
    scene.notes.append(f"by {seconds / 86400:+.1f} days")
    if scene.draw.random() < 0.5:
        return set()
    scene.pause(0.5)
    return driver(scene)


def cut_off(scene: Scene) -> set[int]:
    """Connections are reset, also for a while, or nothing goes through for a while."""
    assert isinstance(scene.place, Schema)
    proxy, how = scene.place.proxy, scene.draw.random()
    seconds = float(scene.draw.uniform(0, 2.0))
    if how < 0.4:
        proxy.cut()
        scene.notes.append("reset")
    elif how < 0.8:
        proxy.cut(seconds)
        scene.notes.append(f"refused for {seconds:.1f} s")
    else:
        proxy.hold(seconds)
        scene.notes.append(f"held up for {seconds:.1f} s")
    return set()


def _store(scene: Scene) -> Path:
    return scene.place.folder / "nas.db"


def tear_log(scene: Scene) -> None:
    scene.notes.append(torn.log_tail(_store(scene), scene.draw))


def tear_log_anywhere(scene: Scene) -> None:
    scene.notes.append(torn.log_anywhere(_store(scene), scene.draw))


def tear_store(scene: Scene) -> None:
    scene.notes.append(torn.pages(_store(scene), scene.draw))


def tear_temporary(scene: Scene) -> None:
    scene.notes.append(torn.temporary(scene.place.folder, scene.draw))


def tear_checkpoint(scene: Scene) -> None:
    with scene.place.look() as store:
        noted = [] if store is None else [Path(file.path) for file in store.artifacts()]
    said, scene.damaged = torn.checkpoint(scene.place.folder, scene.draw, noted)
    scene.notes.append(said)


def _on_file(job: Job, on_server: bool) -> bool:
    return not on_server


def _on_server(job: Job, on_server: bool) -> bool:
    return on_server


def _alone(job: Job, on_server: bool) -> bool:
    return job.workers == 0


def _with_ray(job: Job, on_server: bool) -> bool:
    return job.workers > 0


def _trains(job: Job, on_server: bool) -> bool:
    return job.trains


FAULTS = (
    Fault("driver killed", driver),
    Fault("all processes killed", whole_group),
    Fault("worker killed", worker, _with_ray),
    Fault("Ray daemon killed", daemon, _with_ray),
    Fault("SIGTERM", terminated),
    Fault("Ctrl-C", interrupted),
    Fault("driver stopped", stopped),
    Fault("driver stopped and overtaken", overtaken, _on_server),
    Fault("files cannot grow", small_files, _alone),
    Fault("disk full", full, lambda job, on_server: not on_server and job.workers == 0, mend=free, setting=small_disk),
    Fault("log torn", driver, _on_file, tear_log),
    Fault("log lost from some byte on", driver, _on_file, tear_log_anywhere, forgets=True),
    Fault("store torn", driver, _on_file, tear_store),
    Fault("checkpoint half written", driver, _trains, tear_temporary),
    Fault("checkpoint damaged", driver, _trains, tear_checkpoint),
    Fault("clock jumps", jump, _alone, setting=own_clock),
    Fault("connection lost", cut_off, _on_server),
)


def possible() -> list[Fault]:
    """Those that this machine can do."""
    without = set()
    if CLOCK is None:
        without.add("clock jumps")
    if not may_mount():
        without.add("disk full")
    return [fault for fault in FAULTS if fault.name not in without]

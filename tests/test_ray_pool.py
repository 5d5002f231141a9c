"""A pool of processes: what happens to jobs whose worker dies, hangs, or runs out of memory."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from nas.engine import ray_pool, ray_session
from nas.engine.executors import InProcess
from nas.engine.ray_pool import RayPool
from nas.engine.ray_session import start_ray, stop_ray
from nas.errors import RunError
from nas.evaluators.base import Evaluation, Job, Report
from nas.tasks import room
from nas.tasks.base import split
from nas.tasks.data import Split


@dataclasses.dataclass(frozen=True)
class Troubled:
    """Scores a job by its first choice; the second says what goes wrong, and the third how many times."""

    folder: str
    data: np.ndarray

    def __call__(self, encoding, budget, seed):
        score, trouble, times = encoding
        attempt = len(list(Path(self.folder).glob(f"{score}-*")))
        Path(self.folder, f"{score}-{attempt}").touch()
        if attempt < times:
            TROUBLES[trouble]()
        return Evaluation({"error": score / 100, "pid": os.getpid(), "writeable": self.data.flags.writeable})


def _fail():
    raise ValueError("no such branch")


def _exhaust():
    raise MemoryError("cannot allocate")


TROUBLES = [
    lambda: os.kill(os.getpid(), signal.SIGKILL),
    lambda: time.sleep(60),
    _exhaust,
    _fail,
]
KILL, HANG, EXHAUST, FAIL = range(4)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """In an environment that points to another cluster, where nobody is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        start_ray(4)  # room for two pools
        yield
        stop_ray()
    assert not ray.is_initialized()


@dataclasses.dataclass(frozen=True)
class Looking:
    """Scores by the images that it was given."""

    part: Split

    def __call__(self, encoding, budget, seed):
        return Evaluation({"error": float(self.part.images.sum()), "mapped": self.part.file is not None})


@pytest.mark.parametrize("elsewhere", [False, True])
def test_images_in_files_are_opened_by_workers_of_this_machine_and_sent_to_others(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv(room.FOLDER, str(tmp_path))
    monkeypatch.setenv(room.MEMORY, "0")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    part = split("own", images, np.arange(40) % 2, 2).train
    if elsewhere:
        others = [{**node, "NodeManagerHostname": "other"} for node in ray.nodes()]
        monkeypatch.setattr(ray, "nodes", lambda: others)
    pool = RayPool(Looking(part), 1)
    pool.submit(Job(0, (0,), 0, 0))
    evaluation = pool.wait().evaluation
    pool.close()
    assert evaluation is not None
    assert evaluation.metrics == {"error": float(part.images.sum()), "mapped": not elsewhere}


def test_a_session_that_was_there_before_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ray_session, "_started", False)  # as if it were the user's
    start_ray(1)
    stop_ray()
    assert ray.is_initialized()


def test_a_session_without_a_free_core_is_waited_for_aloud(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_pool, "SAY_SECONDS", 1.0)
    monkeypatch.setattr(ray_session, "_started", False)  # as if it were the user's
    taken: Any = ray.remote(num_cpus=4)(type("Taken", (), {"ready": lambda self: None})).remote()
    ray.get(taken.ready.remote())
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        ray.kill(taken)  # and there is room

    pool = RayPool(Troubled(str(tmp_path), np.zeros(1)), 1, say=hear)
    pool.submit(Job(0, (0, 0, 0), 0, 0))
    assert pool.wait().error is None
    pool.close()
    waits = "Waiting for one worker of Ray to start, which takes 1 CPU: of 4 CPU that the session has, 0 CPU are free."
    assert said[0] == waits


@pytest.mark.parametrize("gpus", [0.5, 2.0])
def test_workers_for_which_no_machine_has_room_are_refused(gpus):
    said = f"a worker takes 1 CPU and {gpus:g} GPU, which no machine of the Ray session has: all together have 4 CPU"
    with pytest.raises(RunError, match=said):
        RayPool(Troubled("", np.zeros(1)), 1, gpus=gpus)


@pytest.mark.parametrize(("workers", "gpus", "each"), [(2, 4, 1), (3, 2, 0.5), (8, 2, 0.25), (5, 2, 1 / 3), (2, 0, 0)])
def test_gpus_are_shared_out_so_that_all_workers_find_room(workers, gpus, each, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
    assert ray_session.gpus_each(workers) == pytest.approx(each)
    assert gpus == 0 or gpus * int(1 / ray_session.gpus_each(workers)) >= workers


def test_sigterm_is_heard_as_ctrl_c_with_ray_too():
    script = """
import os, signal
from nas.interrupts import heard
from nas.engine.ray_session import start_ray, stop_ray
try:
    with heard():
        start_ray(1)
        os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt as stop:
    stop_ray()
    print("heard", stop)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.stdout == "heard SIGTERM\n", done.stderr
    assert done.returncode == 0


def test_workers_have_the_priority_of_their_job():
    script = """
import os
from nas.evaluators.base import Evaluation, Job
from nas.engine.ray_pool import RayPool
from nas.engine.ray_session import stop_ray
class Nice:
    def __call__(self, encoding, budget, seed):
        return Evaluation({"error": float(os.getpriority(os.PRIO_PROCESS, 0))})
pool = RayPool(Nice(), 1)
pool.submit(Job(0, (0,), 0, 0))
print(pool.wait().evaluation.metrics["error"])
pool.close()
stop_ray()
"""
    line = ["nice", "-n", "6", sys.executable, "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    assert done.stdout == f"{os.getpriority(os.PRIO_PROCESS, 0) + 6:.1f}\n", done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("attempts")


@pytest.fixture(scope="module")
def pool(cluster, folder):
    pool = RayPool(Troubled(str(folder), np.zeros(10**6)), 2, trial_seconds=2.0)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def no_attempts(folder):
    for path in folder.iterdir():
        path.unlink()


def outcomes(pool, *encodings) -> dict[int, Report]:
    for number, encoding in enumerate(encodings):
        pool.submit(Job(number, encoding, 0, 0))
    reports = [pool.wait() for _ in encodings]
    assert sorted(report.number for report in reports) == list(range(len(encodings)))
    return {report.number: report for report in reports}


def errors(reports) -> list[float]:
    return [reports[number].evaluation.metrics["error"] for number in sorted(reports)]


@pytest.mark.parametrize("trouble", [KILL, HANG, EXHAUST], ids=["killed", "late", "out of memory"])
def test_trouble_costs_one_retry(pool, trouble, folder):
    reports = outcomes(pool, (1, KILL, 0), (2, trouble, 1), (3, KILL, 0), (4, KILL, 0))
    assert errors(reports) == [0.01, 0.02, 0.03, 0.04]
    assert len(list(folder.glob("2-*"))) == 2


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (KILL, "the worker died (2 attempts)"),
        pytest.param(EXHAUST, "the worker ran out of memory (2 attempts)", marks=pytest.mark.slow),
        pytest.param(HANG, "past its time limit of 2 s (2 attempts)", marks=pytest.mark.slow),
        (FAIL, "ValueError: no such branch"),
    ],
    ids=["killed", "out of memory", "late", "exception"],
)
def test_lasting_trouble_fails_its_trial_with_the_reason_and_no_other(pool, trouble, reason):
    reports = outcomes(pool, (1, trouble, 9), (2, KILL, 0), (3, KILL, 0))
    failed = reports.pop(0)
    assert (failed.evaluation, failed.error) == (None, reason)
    assert errors(reports) == [0.02, 0.03]


@dataclasses.dataclass(frozen=True)
class Patient:
    """Job 0 fails unless the four others end before it."""

    folder: str

    def __call__(self, encoding, budget, seed):
        deadline = time.monotonic() + 60
        while encoding[0] == 0 and len(list(Path(self.folder).iterdir())) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        Path(self.folder, str(encoding[0])).touch()
        return Evaluation({"error": 0.0})


def test_a_slow_job_holds_up_no_other(cluster, folder):
    pool = RayPool(Patient(str(folder)), 2)
    reports = outcomes(pool, *[(number,) for number in range(5)])
    pool.close()
    assert 0 in list(reports)[-2:]  # it and the last of the others may end before either is collected
    assert all(report.error is None for report in reports.values())


def test_a_late_job_is_ended_also_while_others_report(pool):
    pool.submit(Job(0, (1, HANG, 9), 0, 0))
    deadline, number, report = time.monotonic() + 60, 0, None
    while report is None or report.number != 0:
        assert time.monotonic() < deadline
        number += 1
        pool.submit(Job(number, (2, KILL, 0), 0, 0))
        time.sleep(0.1)  # whoever waits finds a report
        report = pool.wait()
    assert report.error == "past its time limit of 2 s (2 attempts)"
    assert pool.wait().number == number


def test_a_client_whose_cluster_is_gone_is_told_in_one_line(pool, monkeypatch):
    def gone(*_, **__):
        raise ConnectionError("the channel is closed")

    pool.submit(Job(0, (2, KILL, 0), 0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool.ray, "wait", gone)
        with pytest.raises(RunError, match="the Ray session has ended: the channel is closed"):
            pool.wait()
    assert pool.wait().number == 0


def test_the_data_are_shared_not_copied(pool):
    reports = outcomes(pool, *[(score, KILL, 0) for score in range(8)])
    assert not any(report.evaluation.metrics["writeable"] for report in reports.values())
    assert all(report.evaluation.metrics["pid"] != os.getpid() for report in reports.values())


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Cannot be unpickled where it arrives."""

    def __reduce__(self):
        return (_fail, ())


@pytest.mark.usefixtures("unchecked")  # what cannot be unpickled is no evaluator
def test_workers_that_cannot_start_end_the_run():
    pool = RayPool(Unreadable(), 2)
    pool.submit(Job(0, (0,), 0, 0))
    with pytest.raises(RunError, match=r"workers cannot be started: .*no such branch"):
        pool.wait()
    pool.close()


def test_in_process_running_out_of_memory_fails_the_trial_alone(tmp_path):
    executor = InProcess(Troubled(str(tmp_path), np.zeros(1)))
    reports = outcomes(executor, (1, EXHAUST, 9), (2, KILL, 0))
    assert reports[0].error == "out of memory: cannot allocate"
    assert errors({1: reports[1]}) == [0.02]

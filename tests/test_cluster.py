"""Ray as it is met: two machines of which one dies, a session that is full, daemons that end, paths that are long."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import refusal

from nas import registry
from nas.engine import ray_session
from nas.evaluators.base import Evaluation, Job
from nas.store.sql import Store

ROOT = Path(__file__).parents[1]
SLOW = """
import dataclasses, os, time
import beside

@dataclasses.dataclass(frozen=True)
class Slow:
    seconds: float = 0.0
    folder: str = ""
    metrics = ("error",)

    def prepare(self, space, task):
        def evaluate(encoding, budget, seed):
            time.sleep(self.seconds)
            node = os.environ.get("RAY_RAYLET_PID", "driver")
            with open(f"{self.folder}/{node}", "a") as file:
                file.write(f"{type(beside.__loader__).__name__}\\n")
            return {"error": beside.score(encoding)}
        return evaluate
"""
WORDS = "search --strategy random --evaluator parts/slow.py:Slow --finalists 0 --baselines 0 --max-images 100 --name it"


def begun(folder: Path, *more: str, **environment: str) -> subprocess.Popen:
    """A job in this folder, with parts in files that lie in it."""
    (folder / "parts").mkdir(parents=True)
    (folder / "nodes").mkdir()
    (folder / "parts" / "slow.py").write_text(SLOW)
    (folder / "parts" / "beside.py").write_text("def score(encoding): return sum(encoding) / 1000\n")
    line = [sys.executable, "-m", "nas", *WORDS.split(), "--evaluator.folder", str(folder / "nodes"), *more]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": folder}
    return subprocess.Popen(line, env={**without_token(), "PYTHONPATH": path, **environment}, **options)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    text = process.communicate(timeout=400)[0]
    return process.returncode, text


def trials(folder: Path) -> list[tuple]:
    with Store(f"sqlite:///{folder / 'nas.db'}") as store:
        found = store.trials(store.run("it").id)
    return [(trial.number, trial.state, tuple(trial.encoding), trial.measurements.get("error")) for trial in found]


def evaluated(folder: Path) -> dict[str, list[str]]:
    """How `beside` was imported for each trial, by where."""
    return {path.name: path.read_text().split() for path in (folder / "nodes").iterdir()}


def wait_until(holds: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextlib.contextmanager
def machines(*resources: dict) -> Iterator[tuple]:
    """A cluster of so many nodes, each with daemons of its own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **resources[0]})
    try:
        nodes = [cluster.add_node(**each) for each in resources[1:]]
        cluster.wait_for_nodes()
        yield cluster, *nodes
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_machine_dies_and_the_job_ends_with_the_same_trials(tmp_path):
    with machines({"num_cpus": 1}, {"num_cpus": 1}) as (cluster, second):
        where = ["--ray-address", cluster.address, "--workers", "2", "--evaluator.seconds", "0.3", "--trials", "40"]
        job = begun(tmp_path / "cluster", *where)
        wait_until(lambda: sum(len(each) >= 2 for each in evaluated(tmp_path / "cluster").values()) == 2, job)
        cluster.remove_node(second, allow_graceful=False)
        status, text = ended(job)
    assert status == 0, text
    assert len(evaluated(tmp_path / "cluster")) == 2
    # Workers import what the driver has imported, and not what may lie in a folder of that name.
    assert {loader for each in evaluated(tmp_path / "cluster").values() for loader in each} == {"_Finder"}
    alone = begun(tmp_path / "alone", "--workers", "0", "--trials", "40")
    assert ended(alone)[0] == 0
    assert trials(tmp_path / "cluster") == trials(tmp_path / "alone")


@contextlib.contextmanager
def daemons(folder: Path, port: int, environment: dict[str, str]) -> Iterator[None]:
    """The head of a cluster, as `ray start` makes it, in a process group of its own."""
    line = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--port", str(port), "--num-cpus", "2"]
    files = ["--temp-dir", str(folder), "--include-dashboard", "false", "--disable-usage-stats"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    process = subprocess.Popen([*line, *files], env=environment, **quiet)
    try:
        assert process.stdout is not None
        assert any("Ray runtime started" in said for said in process.stdout)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def without_token() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ray_session.AUTH}


# A session of one's own, then a cluster that asks for a token.
SESSIONS = """
import os
from nas.engine.ray_session import AUTH, join, stop_ray
join(1)
stop_ray()
assert not any(name in os.environ for name in AUTH)
os.environ["RAY_AUTH_MODE"] = "token"
join(1, address="{}")
stop_ray()
"""


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_joined_with_it_and_refused_without(tmp_path):
    home = {"HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token"}
    with_token = {**without_token(), **home}
    command = [Path(sys.executable).with_name("ray"), "get-auth-token", "--generate"]
    subprocess.run(command, env=with_token, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free, tempfile.TemporaryDirectory(dir="/tmp") as short:
        port = free.getsockname()[1]
        free.close()
        where = ["--ray-address", f"127.0.0.1:{port}", "--workers", "2", "--trials", "10"]
        with daemons(Path(short), port, with_token):
            status, text = ended(begun(tmp_path / "without", *where, HOME=str(tmp_path / "home")))
            assert status == 1, text
            (said,) = (line for line in text.splitlines() if line.startswith("nas: error: "))
            assert "this process has no token, or another one: the token of its head must be in" in said
            status, text = ended(begun(tmp_path / "with", *where, **home))
            assert status == 0, text
            assert len(trials(tmp_path / "with")) == 10
            after = subprocess.run(
                [sys.executable, "-c", SESSIONS.format(f"127.0.0.1:{port}")],
                env={**without_token(), "HOME": home["HOME"]},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert after.returncode == 0, after.stderr


def test_a_session_of_ones_own_writes_nothing_into_the_home_folder(tmp_path):
    script = """
from nas.engine.ray_session import join, stop_ray
for _ in range(2):
    join(1)
    stop_ray()
"""
    environment = {**without_token(), "HOME": str(tmp_path)}
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".ray").exists()


def test_a_cluster_where_nobody_listens_is_refused_before_anything_is_trained(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = f"search --max-images 100 --workers 2 --name it --ray-address 127.0.0.1:{port}"
    done = subprocess.run([sys.executable, "-m", "nas", *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ray_address='127.0.0.1:{port}' cannot be joined: Connection refused; " in done.stderr
    assert "Training" not in done.stderr


def test_a_finished_run_needs_no_cluster_to_say_what_it_found(tmp_path):
    assert ended(begun(tmp_path, "--workers", "0", "--trials", "3"))[0] == 0
    words = "search --resume it --workers 2 --ray-address 127.0.0.1:1"
    done = subprocess.run([sys.executable, "-m", "nas", *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Store(f"sqlite:///{tmp_path / 'nas.db'}") as store:
        assert store.run("it").status == "finished"


@dataclasses.dataclass(frozen=True)
class Counted:
    """Notes in a folder how many were at work beside it."""

    folder: str

    def __call__(self, encoding, budget, seed):
        mine = Path(self.folder, f"{os.getpid()}")
        mine.touch()
        time.sleep(1.0)
        beside = len(list(Path(self.folder).iterdir()))
        mine.unlink()
        return Evaluation({"error": float(beside)})


@pytest.mark.slow
def test_workers_share_gpus_by_halves(tmp_path):
    from ray import cloudpickle

    from nas.engine.ray_pool import RayPool

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which the machines have not
    with machines({"num_cpus": 8}, {"num_cpus": 8, "num_gpus": 2}) as (cluster, _):
        said: list[str] = []
        pool = RayPool(Counted(str(tmp_path)), 8, gpus=0.5, address=cluster.address, say=said.append)
        try:
            for number in range(16):
                pool.submit(Job(number, (0,), 0, 0))
            reports = [pool.wait() for _ in range(16)]
        finally:
            pool.close()
            ray_session.stop_ray()
    beside = [report.evaluation.metrics["error"] for report in reports if report.evaluation]
    assert max(beside) == 4
    assert len(beside) == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("daemon", "said"),
    [("raylet/raylet", "Ray has ended on this machine: its raylet is gone"), ("gcs_server", "is gone")],
)
def test_a_daemon_that_ends_is_said_in_one_line(daemon, said, tmp_path):
    folder = tmp_path / "job"
    job = begun(folder, "--workers", "2", "--evaluator.seconds", "0.5", "--trials", "200")
    wait_until(lambda: sum(map(len, evaluated(folder).values())) >= 2, job)
    wait_until(lambda: any(trial[1] == "finished" for trial in trials(folder)), job)  # the driver has heard of one
    line = ["pgrep", "-P", str(job.pid), "-f", daemon]
    (pid,) = map(int, subprocess.run(line, capture_output=True, text=True).stdout.split())
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    status, text = ended(job)
    assert status == 1
    assert time.monotonic() - began < 45
    last = text.splitlines()[-1]
    assert last.startswith("nas: error: ")
    assert said in last
    assert last.endswith("--resume it goes on with the run")
    assert "[state-dump]" not in text
    known = [trial for trial in trials(folder) if trial[1] == "finished"]
    with Store(f"sqlite:///{folder / 'nas.db'}") as store:
        assert store.run("it").status == "failed"
    assert known


def with_mark(mark: str) -> list[int]:
    """The processes that have this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_nothing_of_ray_outlives_a_killed_driver_for_long(tmp_path):
    mark = f"killed-{os.getpid()}-{time.monotonic_ns()}"
    job = begun(tmp_path / "job", "--workers", "1", "--evaluator.seconds", "0.5", "--trials", "200", NAS_TEST_MARK=mark)
    wait_until(lambda: evaluated(tmp_path / "job"), job)
    assert len(with_mark(mark)) > 3
    job.kill()
    job.communicate()
    deadline = time.monotonic() + 90  # agents of Ray first try for a minute to tell a GCS that is dead
    while left := with_mark(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.slow
def test_a_job_runs_where_tmpdir_is_too_long_for_sockets(tmp_path):
    long = tmp_path / ("t" * 90)
    long.mkdir()
    job = begun(tmp_path / "job", "--workers", "1", "--trials", "2", TMPDIR=str(long))
    status, text = ended(job)
    assert status == 0, text


def test_a_folder_that_is_too_long_for_sockets_is_replaced_or_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert ray_session._folder() is None
    monkeypatch.setenv("TMPDIR", "/" + "t" * 90)
    assert ray_session._folder() == f"/tmp/ray-{os.getuid()}"
    monkeypatch.setattr(os, "makedirs", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    message = refusal(ray_session._folder)
    assert "must be a folder of 35 letters or less, where Ray can have sockets" in message


def test_parts_reach_a_process_that_has_not_their_folder(tmp_path):
    """What lies beside them too, in a file or in a package."""
    folder = tmp_path / "mine"
    (folder / "helpers").mkdir(parents=True)
    (folder / "part_for_workers.py").write_text("import beside_a_part\nfrom helpers import deep\nVALUE = deep.VALUE\n")
    (folder / "beside_a_part.py").write_text("VALUE = 1\n")
    (folder / "helpers" / "__init__.py").write_text("")
    (folder / "helpers" / "deep.py").write_text("import beside_a_part\nVALUE = beside_a_part.VALUE + 1\n")
    sending = (
        "import json, sys; from nas import registry; registry.own('cost', 'mine/part_for_workers.py:deep');"
        "print(json.dumps({n: [p, s.decode()] for n, (p, s) in registry.sources().items()}))"
    )
    sent = told(tmp_path, sending)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    receiving = (
        "import json, sys; from nas import registry; given = json.loads(sys.stdin.read());"
        "registry.install({n: (p, s.encode()) for n, (p, s) in given.items()});"
        "print(next(m.VALUE for n, m in sys.modules.items() if n.startswith('nas_part_')), 'nas' in given)"
    )
    assert told(tmp_path, receiving, sent) == "2 False\n"


def told(folder: Path, code: str, given: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-B", "-c", code]
    done = subprocess.run(line, input=given, capture_output=True, text=True, cwd=folder, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_without_neighbours_are_sent_alone():
    assert not [name for name in registry.sources() if name.partition(".")[0] in registry.OURS]

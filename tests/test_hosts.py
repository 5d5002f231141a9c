"""Several processes train a supernet together: each its part of a batch, and what comes of it is what one gives."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal

from nas import hosts
from nas.errors import RunError
from nas.saved import checkpoint
from nas.store.sql import Store

ROOT = Path(__file__).parents[1]
ADDRESS = "10.0.0.1:1234"
WORDS = """search --space.blocks (1,1) --space.widths (8,16) --space.strides (1,2) --space.stem-width 8
--space.last-width 16 --training.steps 60 --training.batch-size 16 --training.checkpoint-seconds 0 --final.steps 5
--trials 3 --workers 0 --strategy random --max-images 200 --baselines 0 --name it"""
# At a high rate a difference in the last digit of a sum is another training after 60 steps.
GENTLE = WORDS.replace("steps 60", "steps 60 --training.learning-rate 0.001")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"process_id": 1}, "process_id=1 needs --coordinator-address HOST:PORT, that of process 0"),
        ({"coordinator_address": ADDRESS}, "needs --num-processes and --process-id, or must be auto"),
        ({"coordinator_address": "host"}, "coordinator_address='host' must be HOST:PORT, that of process 0, or auto"),
        ({"coordinator_address": ADDRESS, "num_processes": "two", "process_id": 0}, "must be a whole number"),
        ({"coordinator_address": ADDRESS, "num_processes": 2, "process_id": 2}, "process_id=2 must be in 0..1"),
    ],
)
def test_processes_that_cannot_meet_are_refused(given, said):
    assert said in refusal(hosts.asked, given)


@pytest.mark.slow
def test_a_process_that_waits_for_others_says_so_and_hears_an_interrupt(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = f" --coordinator-address 127.0.0.1:{port} --num-processes 2 --process-id 0"
    line = [sys.executable, "-m", "nas", *(WORDS + where).split()]
    job = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stderr is not None
    assert job.stderr.readline() == f"Waiting for the other processes at 127.0.0.1:{port}.\n"
    job.send_signal(signal.SIGTERM)
    assert "Interrupted before the run began." in job.communicate(timeout=60)[1]
    assert job.returncode == 130


def test_processes_that_do_not_come_are_an_error(monkeypatch):
    monkeypatch.setattr(hosts, "MEET_SECONDS", 0.1)
    monkeypatch.setattr(hosts, "abandon", lambda: None)
    with pytest.raises(RunError, match="coordinator_address='HOST:1': some process has not come within 0 s"):
        hosts._meet(lambda: time.sleep(2), "HOST:1", print)


def test_one_process_joins_nobody():
    with hosts.joined({}) as number:
        assert (number, hosts.count(), hosts.trains()) == (0, 1, False)
    assert hosts.asked({"coordinator_address": ADDRESS, "num_processes": 1, "process_id": 0}) is None
    assert hosts.asked({"coordinator_address": "[::1]:80", "num_processes": "3", "process_id": "2"})
    assert hosts.asked({"coordinator_address": "auto"}) == ("auto", None, None)
    with hosts.together():
        assert not hosts.trains()


SCRIPT = """
import dataclasses, json, sys
sys.path.insert(0, "tests")
import conftest, numpy as np
from nas import hosts
from nas.training.net import flatten, split
from nas.training.sgd import fit

number, count, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
losses = []
with hosts.joined({"coordinator_address": address, "num_processes": count, "process_id": number}):
    import jax
    graph, weights, statistics = split(conftest.MINI.supernet(jax.random.key(number)))  # those of process 0 count
    task = conftest.bands()
    recipe = dataclasses.replace(conftest.RECIPE, steps=6)
    paths = np.tile(np.array([0, 1, 2, 3], np.int32), (6, 1))
    how = {"paths": paths, "on_step": lambda step, loss: losses.append(loss)}
    with hosts.together():
        trained = flatten(fit(graph, weights, statistics, task, recipe, seed=0, **how))
print(json.dumps({"losses": losses, "weights": [float(abs(leaf).sum()) for leaf in trained.values()]}))
"""


STOPS = """
import os, signal, sys, time
from nas import hosts

hosts.BEAT_SECONDS, hosts.SILENT_SECONDS = 0.2, 4.0
number, stopped, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
said = {"coordinator_address": address, "num_processes": 2, "process_id": number}
with hosts.joined(said, complain=lambda line: print(line, flush=True)):
    time.sleep(1)
    print("joined", flush=True)
    if number == stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    hosts._read("what nobody writes")
"""


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_gives_no_sign_of_life_ends_the_others(stopped):
    address = free_address()
    options: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    lines = [[sys.executable, "-c", STOPS, str(number), str(stopped), address] for number in range(2)]
    processes = [subprocess.Popen(line, **options) for line in lines]
    try:
        out, errors = processes[1 - stopped].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            with process:  # which closes its pipes
                pass
    said = f"process {stopped} has given no sign of life for 4 s; --resume goes on with the run"
    assert out == f"joined\n{said}\n", errors
    assert processes[1 - stopped].returncode == 1
    assert errors == ""


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def trained(count: int) -> list[dict]:
    """What each of so many processes has in the end."""
    address = free_address()
    lines = [[sys.executable, "-c", SCRIPT, str(number), str(count), address] for number in range(count)]
    options: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(line, **options) for line in lines]
    outputs = [process.communicate(timeout=500) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.mark.slow
def test_two_processes_train_as_one_does():
    one, (first, second) = trained(1)[0], trained(2)
    assert first == second
    for name in ("losses", "weights"):
        np.testing.assert_allclose(first[name], one[name], rtol=2e-4, atol=1e-5)


def begun(folder: Path, *more: str, words: str = WORDS) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "nas", *words.split(), *more]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, cwd=folder, env={**os.environ, "PYTHONPATH": path}, **options)


def together(folder: Path, count: int, *more: str, words: str = WORDS) -> list[subprocess.Popen]:
    """The processes of a job, each in a folder of its own: that of the first alone has the store."""
    address = free_address()
    which = ["--coordinator-address", address, "--num-processes", str(count), "--process-id"]
    return [begun(folder / f"{number}", *more, *which, f"{number}", words=words) for number in range(count)]


def ended(process: subprocess.Popen) -> tuple[int, str]:
    text = process.communicate(timeout=500)[0]
    return process.returncode, text


def weights(folder: Path) -> dict[str, np.ndarray]:
    with Store(f"sqlite:///{folder / '0' / 'nas.db'}") as store:
        return checkpoint.read(store.folder(store.run("it")) / "supernet.safetensors")[0]


def wait_for_steps(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400
    while not list(folder.rglob("supernet.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_job_goes_on_with_another_number_of_processes(tmp_path):
    """It is begun by two, of which one is killed, gone on with alone, stopped, and ended by two again."""
    (tmp_path / "alone").mkdir()
    assert ended(begun(tmp_path / "alone" / "0", words=GENTLE))[0] == 0
    folder = tmp_path / "both"
    folder.mkdir()
    first, second = together(folder, 2, words=GENTLE)
    wait_for_steps(folder, first)
    second.kill()
    status, text = ended(first)
    second.communicate()
    assert status == 1
    assert re.search(r"nas: error: another process has ended: .*--resume it goes on with the run\n$", text)
    assert not (folder / "1" / "nas.db").exists()

    alone = begun(folder / "0", words="search --resume it")
    time.sleep(3)
    alone.send_signal(signal.SIGINT)
    assert ended(alone)[0] in (0, 130)
    outcomes = [ended(process) for process in together(folder, 2, words="search --resume it")]
    assert outcomes[0][0] == 0, outcomes
    assert outcomes[1][0] in (0, 1), outcomes  # nothing is left to train where the one alone was quick
    expected, found = weights(tmp_path / "alone"), weights(folder)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_processes_with_other_data_are_refused_by_both(tmp_path):
    address = free_address()
    which = ["--coordinator-address", address, "--num-processes", "2", "--process-id"]
    first = begun(tmp_path / "0", *which, "0")
    np.savez(tmp_path / "other.npz", images=np.zeros((90, 8, 8), np.uint8), labels=np.arange(90) % 10)
    second = begun(tmp_path / "1", *which, "1", "--task", f"npz:{tmp_path / 'other.npz'}")
    for process in (first, second):
        status, text = ended(process)
        assert status == 2
        assert re.search(r"the data is \w+ here and \w+ in process 0; it must be the same", text.splitlines()[-1])


@pytest.mark.slow
def test_what_several_processes_cannot_train_is_refused_by_all(tmp_path):
    first, second = together(tmp_path, 2, "--training.batch-size", "15")
    status, text = ended(first)
    assert (status, text.splitlines()[-1]) == (
        2,
        "nas: error: training.batch_size=15 must be a multiple of 2, the devices of all 2 processes",
    )
    status, text = ended(second)
    assert status == 1
    assert "process 0 trains nothing: training.batch_size=15" in text

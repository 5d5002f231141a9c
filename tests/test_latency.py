"""The latency of a device: tables are fitted to what was timed, are costs like any other, and files of data."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI, Toy, refusal

from nas.commands import cli
from nas.commands import search as launch
from nas.latency import backends, timing
from nas.latency.fitting import agreement, fitted
from nas.latency.measuring import Plan, measured, networks
from nas.latency.timing import BURST, WARM, timed
from nas.report.progress import Silent
from nas.saved import latencies
from nas.store.sql import Store
from nas.testing import check_space
from spaces.base import costs, sample
from spaces.costs import with_cost
from spaces.darts import PRESETS as DARTS
from spaces.latency import Latency, nothing, places, sizes
from spaces.nasbench201 import NONE, NasBench201
from strategies.region import region

CELLS = NasBench201(width=2, cells=1, image_size=8, image_channels=1, num_classes=3)


def table_of(space, seed: int = 0) -> Latency:
    """Any table, in which nothing costs nothing."""
    draw = np.random.default_rng(seed)
    rows = [draw.uniform(0, 2, size) for size in sizes(space)]
    for row in rows:
        row[nothing(space) or 0] = 0.0
    return Latency(1.5, tuple(tuple(row.tolist()) for row in rows))


# The fit


@pytest.mark.parametrize("space", [MINI, CELLS, Toy()], ids=["chain", "cells", "uneven"])
def test_a_table_is_found_again_from_networks_that_it_made(space):
    true, n = table_of(space), 150
    rows = np.asarray(places(space, sample(space, jax.random.key(0), n)))
    draw = np.random.default_rng(1)
    exact = 1.5 + sum(np.array(row)[rows[:, i]] for i, row in enumerate(true.table))
    found = fitted(rows[:100], exact[:100] * draw.normal(1, 0.01, 100), sizes(space), nothing(space))
    told = found.fixed + sum(np.array(row)[rows[100:, i]] for i, row in enumerate(found.table))
    checked = agreement(told, exact[100:])
    assert checked.networks == 50
    assert checked.spearman > 0.99
    assert checked.mean_relative_error < 0.02


def test_few_networks_say_what_an_operation_costs_wherever_it_is():
    """Ten networks for thirty numbers: enough where an operation costs the same on every edge."""
    each = np.array([0.0, 0.1, 1.0, 3.0, 0.4])
    rows = np.random.default_rng(0).integers(0, 5, (60, 6))
    exact = 1 + each[rows].sum(1)
    found = fitted(rows[:10], exact[:10], (5,) * 6, NONE)
    told = found.fixed + sum(np.array(row)[rows[10:, i]] for i, row in enumerate(found.table))
    assert agreement(told, exact[10:]).spearman > 0.9
    assert all(row[NONE] == 0 for row in found.table)


# The clock


def test_a_time_is_the_median_of_rounds_of_which_each_keeps_the_least(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: now[0])

    def program(number):
        def run():
            calls.append(number)
            mine = calls.count(number) - 1 - WARM
            late = 5.0 if mine % BURST == 0 else 0.0  # something else runs
            now[0] += number + late + (0.5 if mine // BURST == 0 else 0.0)

        return run

    heard = []
    times = timed([program(1), program(2)], 3, "wall", np.random.default_rng(0), heard.append)
    np.testing.assert_allclose(times.rounds, [[1500, 2500], [1000, 2000], [1000, 2000]])
    np.testing.assert_allclose(times.medians, [1000, 2000])
    assert heard == [1, 2, 3]
    assert len(calls) == 2 * (WARM + 3 * BURST)
    assert times.spread == pytest.approx((0.25 / 1 + 0.25 / 2) / 2)
    np.testing.assert_allclose(times.halves[0], [1250, 2250])


def test_only_one_thread_of_a_cpu_has_the_clock_of_its_core():
    assert Plan(threads=1).clock == "core"
    assert {Plan().clock, Plan(threads=2).clock, Plan(device="gpu", threads=1).clock} == {"wall"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch": 0}, "batch=0 must lie in 1..10000"),
        ({"networks": 3}, "networks=3 must lie in 4..10000"),
        ({"repeats": 1}, "repeats=1 must lie in 2..10000"),
        ({"seed": -1}, "seed=-1 must lie in 0..4294967295"),
    ],
)
def test_plans_that_are_none_are_refused(fields, said):
    assert refusal(Plan, **fields) == said


def test_what_no_machine_has_is_refused():
    assert refusal(backends.device, "tpu").startswith("device='tpu' is not one of cpu, gpu")
    assert refusal(backends.backend, "jex") == ("backend='jex' is not one of jax, onnxruntime; did you mean 'jax'?")


# The measurement


@pytest.fixture
def device(monkeypatch):
    """A device on which a network takes what a table says."""
    now = [0.0]

    def program(network, images, where):
        milliseconds = sum(leaf.size for leaf in jax.tree.leaves(network)) * len(images)

        def run():
            now[0] += milliseconds / 1000

        return run

    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: now[0])
    monkeypatch.setitem(backends.BACKENDS, "fake", program)


@dataclasses.dataclass(frozen=True)
class Numbers(Toy):
    """Networks of so many numbers: of a device that takes a millisecond for each."""

    image_size: int = 2
    image_channels: int = 1
    num_classes: int = 2

    def build(self, encoding, key):
        return {"weights": np.zeros(10 + int(np.sum(encoding * np.array([1, 2, 0, 3, 1, 5]))))}


def test_a_space_is_measured_on_some_networks_and_checked_on_others(device):
    plan = Plan(backend="fake", networks=40, checked=15, repeats=2, batch=2)
    found = measured(Numbers(), plan, Silent())
    assert found.card["checked"]["networks"] == 15
    assert found.card["networks"] == 40
    assert found.card["checked"]["spearman"] > 0.99
    assert found.card["repeated"]["spearman"] > 0.999
    assert found.card["repeated"]["mean_relative_error"] + found.card["spread"] < 1e-9
    assert (found.card["batch"], found.card["clock"]) == (2, "wall")
    assert {"machine", "versions", "date", "threads", "device_kind", "repeats"} <= found.card.keys()
    row = jnp.asarray([[1, 2, 0, 3, 1, 2]])
    assert float(found.latency(Numbers(), row)["latency_ms"][0]) == pytest.approx(2 * 35, rel=0.02)


def test_equal_networks_are_measured_once_and_too_few_are_refused():
    rows = networks(CELLS, Plan(networks=50, checked=20))
    assert len(rows) == 70 == len(np.unique(rows, axis=0))
    np.testing.assert_array_equal(CELLS.canonical(jnp.asarray(rows)), rows)
    few = dataclasses.replace(Toy(), cardinalities=(1, 1, 1, 2, 2, 1))
    assert refusal(networks, few, Plan()) == "space='Toy' has 4 networks; allowed: 8 or more"


# The cost


@pytest.mark.parametrize("space", [MINI, CELLS, Toy(), DARTS["tiny"]], ids=["chain", "cells", "uneven", "genotypes"])
def test_it_is_a_cost_that_adds_up_in_programs_limits_and_mixtures(space):
    latency = table_of(space)
    from ray import cloudpickle

    timed_space = cloudpickle.loads(cloudpickle.dumps(with_cost(space, latency)))  # as for workers
    rows = sample(space, jax.random.key(0), 8)
    found = jax.jit(timed_space.cost)(rows)["latency_ms"]
    where = np.asarray(places(space, rows))
    expected = [1.5 + sum(latency.table[i][choice] for i, choice in enumerate(row)) for row in where]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if nothing(space) is not None or space is MINI:
        fixed, table = timed_space.mixing().costs["latency_ms"]
        np.testing.assert_allclose(fixed + table[np.arange(len(table)), where].sum(1), expected)
        assert timed_space.mixing().costs.keys() > {"macs"}


def test_limits_are_exact_and_mixtures_keep_their_laws():
    space = with_cost(MINI, table_of(MINI))
    least = 1.5 + sum(map(min, table_of(MINI).table))
    where = region(space, (("latency_ms", least + 0.3),))
    assert costs(space, where.anchor)["latency_ms"] <= least + 0.3
    with pytest.raises(ValueError, match=f"the smallest latency_ms is {least:.4}"):
        region(space, (("latency_ms", least - 0.01),))


@pytest.mark.slow
def test_the_laws_of_spaces_hold_with_it():
    for space in (MINI, CELLS):
        check_space(with_cost(space, table_of(space)), samples=8, networks=False)


# Files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.json"
    latencies.write(path, "shufflenet", MINI, table_of(MINI), {"device": "cpu"})
    return path


def test_a_file_is_read_as_it_was_written(file):
    latency, digest = latencies.read(str(file), MINI)
    assert latency.fixed == 1.5
    np.testing.assert_allclose(latency.filled(), table_of(MINI).filled(), atol=1e-9)
    file.write_text(file.read_text().replace("cpu", "gpu"))
    assert latencies.read(str(file), MINI)[1] != digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format=2 is unknown to this version; allowed: 1"),
        ({"table_ms": [[0.0] * 4] * 3}, "table_ms must have 4 rows, of 4 numbers"),
        ({"table_ms": 3}, "table_ms must be a list of lists of numbers"),
        ({"table_ms": [[0.0, 0.0, 0.0, "x"]] * 4}, "'x' must be a number of milliseconds"),
        ({"table_ms": [[0.0, 0.0, 0.0, True]] * 4}, "True must be a number of milliseconds"),
        ({"fixed_ms": float("nan")}, "nan must be a number of milliseconds"),
        ({"fixed_ms": 1e300}, "1e+300 must be a number of milliseconds, of at most 1e+09"),
        ({"space": {}}, "space must have name, fingerprint, image_size, image_channels, num_classes"),
        (
            {"space": {"name": "x", "fingerprint": "y", "image_size": 8, "image_channels": 1, "num_classes": 3}},
            "of 'x'",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(file, change, said):
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert said in refusal(latencies.read, str(file), MINI)


def test_files_that_are_none_are_refused(file, tmp_path):
    wider = dataclasses.replace(MINI, image_size=16)
    assert "it was measured with image_size=8, not 16" in refusal(latencies.read, str(file), wider)
    deeper = dataclasses.replace(MINI, last_width=32)
    assert "measured of 'shufflenet', of another kind or with other fields" in refusal(
        latencies.read, str(file), deeper
    )
    for content in ("{", "[" * 100_000, "[]", "\x00"):
        file.write_text(content)
        assert "is no table of latencies" in refusal(latencies.read, str(file), MINI)
    file.write_bytes(b" " * (latencies.MOST_BYTES + 1))
    assert "is longer than" in refusal(latencies.read, str(file), MINI)
    assert "cannot be read" in refusal(latencies.read, str(tmp_path), MINI)
    assert "cannot be read" in refusal(latencies.read, str(tmp_path / "absent"), MINI)


# From the command line

SIZE = ["--space", "nasbench201", "--space.cells", "1", "--space.width", "2"]


def measured_here(tmp_path, *words: str) -> int:
    shape = ["--image-size", "8", "--channels", "1", "--classes", "10", "--networks", "4", "--checked", "4"]
    return cli.main(["latency", "measure", *SIZE, *shape, "--repeats", "2", "--out", str(tmp_path / "my.json"), *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "x"], "argument --batch: 'x' must be a valid integer"),
        (["--spice.cells", "2"], "flag='--spice.cells'"),
        (["--trials", "5"], "trials='5' cannot be set: the networks are those of a space alone"),
        (["--resume", "x"], "resume='x' is for run_search.py"),
        (["--backend", "onxx"], "backend='onxx' is not one of jax, onnxruntime"),
        (["--threads", "100000"], "threads=100000 must lie in 1.."),
        (["--device", "gpu", "--threads", "1"], "threads=1 cannot be set: it is for --device cpu, on Linux"),
        (["--classes", "-1"], "classes=-1 must lie in 0..100000"),
        (["--image-size", "99999999999"], "image-size=99999999999 must lie in 1..1024"),
        (["--space.cells", "0"], "cells=0 must be at least 1"),
        (["--space", "absent.py"], "space='absent.py': the file cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, words, said, capsys):
    assert measured_here(tmp_path, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said in line
    assert not (tmp_path / "my.json").exists()


@pytest.mark.slow
def test_a_search_is_limited_by_what_was_measured_and_goes_on_by_the_same_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert measured_here(tmp_path, "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert (told["networks"], told["checked"]) == (4, 4)
    small = [*SIZE, "--strategy", "random", "--max-images", "100", "--workers", "0", "--finalists", "0"]
    small += ["--evaluator", "zero-cost", "--trials", "4", "--latency", "my.json"]
    data = json.loads((tmp_path / "my.json").read_text())
    most = data["fixed_ms"] + np.mean(data["table_ms"]) * 6
    limit = ["--limit", f"latency_ms <= {most}", "--objectives", "naswot,latency_ms", "--name", "it"]
    assert launch.main([*small, *limit]) == 0
    with Store("sqlite:///nas.db") as store:
        trials = store.trials(store.run("it").id)
    assert len(trials) == 4
    assert all(trial.measurements["latency_ms"] <= most for trial in trials)
    capsys.readouterr()
    assert cli.main(["top", "it", "--by", "latency_ms", "--format", "json"]) == 0
    shown = [row["latency_ms"] for row in json.loads(capsys.readouterr().out)]
    assert shown == sorted(shown)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    at = ["--store", f"sqlite:///{tmp_path}/nas.db"]
    assert launch.main(["--resume", "it", *at]) == 0
    (tmp_path / "my.json").write_text(json.dumps(data | {"fixed_ms": 0.5 * data["fixed_ms"]}))
    assert launch.main(["--resume", "it", *at]) == 2
    assert "holds other times than when it began" in capsys.readouterr().err


@pytest.mark.slow
def test_both_backends_run_the_network():
    """What ONNX Runtime is timed with gives the answers of the network that JAX is timed with."""
    pytest.importorskip("onnxruntime")
    network = MINI.build(np.zeros(len(MINI.cardinalities), np.int32), jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    run = backends.by_onnxruntime(network, images, jax.devices("cpu")[0])
    expected = backends.by_jax(network, images, jax.devices("cpu")[0])()
    np.testing.assert_allclose(np.asarray(run())[0], np.asarray(expected), rtol=1e-4)


def test_what_cannot_be_written_as_onnx_is_said_in_a_line(monkeypatch):
    def fails(*_):
        raise NotImplementedError("no such\noperation")

    monkeypatch.setattr("nas.saved.as_onnx.converted", fails)
    network = MINI.build(np.zeros(len(MINI.cardinalities), np.int32), jax.random.key(0))
    said = refusal(backends.by_onnxruntime, network, np.zeros((1, 8, 8, 1), np.float32), jax.devices("cpu")[0])
    assert said == ("backend='onnxruntime' cannot run this network: jax2onnx says no such operation; allowed: jax")

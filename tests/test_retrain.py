"""`nas retrain` trains what it is asked for: the architecture that `nas show` shows, in the network of its score."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from nas import config
from nas.commands import cli
from nas.commands import search as launch
from nas.job import run as job
from nas.report.outcome import Outcome
from nas.store.sql import NewTrial, Store
from spaces import SPACES, presets
from spaces.base import architecture_id
from spaces.genotype import PUBLISHED

FACTS = {"strategy": "random", "task": "digits", "code_version": "0", "seed": 0}


def stored(url: str, name: str, run: str | None = None, data: dict | None = None) -> tuple[str, np.ndarray]:
    """Writes a run, on data, with one architecture of a space; its id and its encoding."""
    space = next(iter(presets(name).values()))
    drawn = np.random.default_rng(1).integers(0, space.cardinalities)
    row = np.asarray(space.canonical(jnp.asarray(drawn, jnp.int32)[None]))[0]
    known = architecture_id(space, row)
    with Store(url, create=True) as store:
        made = store.add_run(name=run, space=name, config={"given": {"space": {"name": name}, **(data or {})}}, **FACTS)
        store.add_trials(made.id, [NewTrial(0, known, row.tolist(), space.describe(row), name, 0, 0)])
        store.finish_trial(made.id, 0, metrics={"error": 0.5}, error=None, seconds=1)
    return known, row


@pytest.fixture
def url(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/nas.db"


@pytest.fixture
def asked(monkeypatch) -> list[config.Config]:
    """What is asked for, in place of doing it."""
    found = []

    def search(data, reporter):
        found.append(config.build(data))
        return Outcome("run", data["store"], "error", [], [])

    monkeypatch.setattr(job, "search", search)
    return found


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("run", [None, "(odd)", "[a, b]", "010", "x-", "a:b"])
def test_what_the_store_knows_is_what_is_trained(url, asked, name, run):
    known, row = stored(url, name, run)
    words = ["--name=(again)", "--task", "npz:(a).npz", "--data-dir", "[dir]", "--seed", "4294967295"]
    assert cli.main(["retrain", known[:8], "--store", url, *words]) == 0
    (found,) = asked
    np.testing.assert_array_equal(found.space.parse(found.architecture), row)
    assert found.space == next(iter(presets(name).values()))
    assert (found.name, found.task, found.data_dir) == ("(again)", "npz:(a).npz", "[dir]")
    assert (found.seed, found.store) == (2**32 - 1, url)


@pytest.mark.parametrize("name", SPACES)
def test_the_text_that_is_shown_is_trained(url, asked, name, capsys):
    known, row = stored(url, name)
    assert cli.main(["show", known, "--store", url, "--format", "json"]) == 0
    text = json.loads(capsys.readouterr().out)[0]["description"]
    space = next(iter(presets(name).values()))
    assert cli.main(["retrain", f"{name}:{text}", "--store", url]) == 0
    np.testing.assert_array_equal(space.parse(asked[0].architecture), row)


@pytest.mark.parametrize(
    "text",
    [str(PUBLISHED["DARTS_V2"]), f"DARTS_V2 = {PUBLISHED['DARTS_V2']}", "DARTS_V2"],
    ids=["text", "line", "name"],
)
def test_a_published_genotype_is_trained_by_text_by_line_and_by_name(url, asked, text):
    assert cli.main(["retrain", f"darts:{text}", "--preset", "tiny"]) == 0
    space = presets("darts")["tiny"]
    np.testing.assert_array_equal(asked[0].space.parse(asked[0].architecture), space.parse("DARTS_V2"))
    assert asked[0].space == space


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["darts:DARTS_V2", "--architecture", "DARTS_V1"], "architecture='DARTS_V1' cannot be set"),
        (["darts:DARTS_V2", "--space", "darts:tiny"], "space='darts:tiny' cannot be set"),
        (["darts:DARTS_V2", "--resume", "x"], "resume='x'"),
        (["darts:-x", "--task", "digits"], "'-x' is not of the form"),
        (["darts:DARTS_V3 = None"], "is not of the form"),
        (["darts:DARTS_V2", "--seed", "4294967296"], "seed=4294967296 must lie in 0..4294967295"),
        (["darts:DARTS_V2", "--seed", "18446744073709551616"], "must lie in 0..4294967295"),
        (["darts:DARTS_V2", "--config", "other.yaml"], "store='sqlite:///other.db' of the file"),
        (["shufflenet:(3,0)"], "'(3,0)' must have 9 choices"),
        (["(3,0)", "--store", "sqlite:///absent.db"], "does not exist"),
    ],
)
def test_what_cannot_be_trained_is_refused(url, tmp_path, words, reason, capsys):
    (tmp_path / "other.yaml").write_text("store: sqlite:///other.db\n")
    assert cli.main(["retrain", *words]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.strip().splitlines()) == 1  # the bar may have begun a line
    assert not (tmp_path / "nas.db").exists()


PHOTOS = {"task": "folder:/photos", "image_size": 24, "resize": "pad", "max_images": 90, "data_dir": None}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("folder:/photos", 24, "pad", 90)),
        (["--image-size", "16"], ("folder:/photos", 16, "pad", 90)),
        (["--task", "digits"], ("digits", None, "crop", None)),
    ],
)
def test_what_a_search_has_found_is_trained_on_its_data(url, asked, capsys, words, expected):
    known, _ = stored(url, "shufflenet", "found", PHOTOS)
    assert cli.main(["retrain", known, "--store", url, *words]) == 0
    (found,) = asked
    assert (found.task, found.image_size, found.resize, found.max_images) == expected
    said = capsys.readouterr().err
    assert ("On the data of run found: task=folder:/photos, image_size=24" in said) == ("--task" not in words)


def test_the_run_whose_data_are_meant_can_be_named(url, asked, capsys):
    known, _ = stored(url, "shufflenet", "first", PHOTOS)
    stored(url, "shufflenet", "second", {"task": "digits"})
    for run, task in (("first", "folder:/photos"), ("second", "digits"), (None, "digits")):
        assert cli.main(["retrain", known, "--store", url, *(["--run", run] if run else [])]) == 0
        assert asked[-1].task == task
    stored(url, "nasbench201", "third")
    assert cli.main(["retrain", known, "--store", url, "--run", "third"]) == 2
    assert "has no score of run='third', but of first, second" in capsys.readouterr().err


def test_what_a_table_search_has_found_needs_images(url, asked, capsys):
    known, _ = stored(url, "nasbench201", "found", {"task": "table:x.npz"})
    assert cli.main(["retrain", known, "--store", url]) == 2
    assert "task='table:x.npz' of run 'found' has no images to train on: name others by --task" in (
        capsys.readouterr().err
    )
    assert cli.main(["retrain", known, "--store", url, "--task", "digits"]) == 0
    assert asked[0].task == "digits"


def test_the_data_are_of_a_search_not_of_a_retraining_since(url, asked):
    known, row = stored(url, "shufflenet", "found", PHOTOS)
    with Store(url) as store:
        config = {"given": {"space": {"name": "shufflenet"}, "task": "cifar10"}}
        run = store.add_run(name="again", space="shufflenet", config=config, **{**FACTS, "strategy": "retrain"})
        store.add_trials(run.id, [NewTrial(0, known, row.tolist(), "", "shufflenet", 0, 0)], "final")
        metrics = {"standalone_error": 0.5}
        store.finish_trial(run.id, 0, metrics=metrics, error=None, seconds=1, kind="final")
    assert cli.main(["retrain", known, "--store", url]) == 0
    assert asked[0].task == "folder:/photos"


@pytest.mark.parametrize("name", SPACES)
def test_a_description_names_an_architecture_too(url, asked, name, capsys):
    known, row = stored(url, name)
    with Store(url) as store:
        text = store.show(known)["description"]
    assert cli.main(["show", text, "--store", url]) == 0
    assert known in capsys.readouterr().out
    assert cli.main(["retrain", text, "--store", url]) == 0
    np.testing.assert_array_equal(asked[0].space.parse(asked[0].architecture), row)


def test_no_password_is_in_a_printed_command(capsys):
    assert launch.main(["--architecture", "af3512", "--store", "postgresql://me:secret@localhost/x"]) == 2
    said = capsys.readouterr().err
    assert "retrain af3512 --store postgresql://me@localhost/x" in said
    assert "secret" not in said


def test_an_id_where_a_description_is_needed_is_answered_with_the_command_for_ids(url, capsys):
    assert launch.main(["--architecture", "af3512", "--store", url]) == 2
    assert "nas retrain af3512 --store" in capsys.readouterr().err


def test_a_pyramid_is_trained_in_a_stack_of_any_height(url, asked, capsys):
    known, row = stored(url, "nas-fpn", "found", {"task": "scenes", "image_size": 128})
    first = next(iter(presets("nas-fpn").values()))
    for words in (["--stack", "3"], ["--space.stacks", "3"]):
        assert cli.main(["retrain", known, "--store", url, *words]) == 0
        assert asked[-1].space == dataclasses.replace(first, stacks=3)
        np.testing.assert_array_equal(asked[-1].space.parse(asked[-1].architecture), row)
    assert cli.main(["retrain", known, "--preset", "tiny", "--store", url, "--stack", "2", "--space.width", "16"]) == 0
    assert asked[-1].space == dataclasses.replace(presets("nas-fpn")["tiny"], stacks=2, width=16)
    assert cli.main(["retrain", "nas-fpn:NAS-FPN", "--store", url, "--stack", "7", "--task", "scenes"]) == 0
    assert asked[-1].space.stacks == 7


def test_each_pyramid_of_a_stack_is_an_exit_where_that_is_asked_for(url, asked):
    words = ["--store", url, "--task", "scenes", "--anytime"]
    assert cli.main(["retrain", "nas-fpn:NAS-FPN", "--preset", "tiny", *words, "--stack", "3"]) == 0
    assert asked[-1].space == dataclasses.replace(presets("nas-fpn")["tiny"], stacks=3, anytime=True)
    assert cli.main(["retrain", "nas-fpn:NAS-FPN", "--preset", "paper", *words]) == 0
    assert (asked[-1].space.stacks, asked[-1].space.anytime) == (7, True)


def test_the_neck_of_a_product_is_stacked_too(url, asked):
    text = "shufflenet+nas-fpn"
    space = config.build_space(text)
    row = np.asarray(space.canonical(jnp.zeros((1, len(space.cardinalities)), jnp.int32)))[0]
    with Store(url, create=True) as store:
        given = {"given": {"space": {"name": text}, "task": "scenes"}}
        run = store.add_run(name="found", space=text, config=given, **FACTS)
        known = architecture_id(space, row)
        store.add_trials(run.id, [NewTrial(0, known, row.tolist(), space.describe(row), text, 0, 0)])
        store.finish_trial(run.id, 0, metrics={"minus_ap": -0.5}, error=None, seconds=1)
    assert cli.main(["retrain", known, "--store", url, "--stack", "3", "--anytime"]) == 0
    assert asked[0].space.neck == dataclasses.replace(space.neck, stacks=3, anytime=True)
    np.testing.assert_array_equal(asked[0].space.parse(asked[0].architecture), row)


def test_fields_that_a_search_gave_to_its_space_stay(url, asked, capsys):
    with Store(url, create=True) as store:
        space = presets("nas-fpn")["tiny"]
        row = np.asarray(space.canonical(jnp.zeros((1, len(space.cardinalities)), jnp.int32)))[0]
        config = {"given": {"space": {"name": "nas-fpn:tiny", "width": 24}, "task": "scenes"}}
        run = store.add_run(name="found", space="nas-fpn", config=config, **FACTS)
        known = architecture_id(space, row)
        store.add_trials(run.id, [NewTrial(0, known, row.tolist(), space.describe(row), "nas-fpn", 0, 0)])
        store.finish_trial(run.id, 0, metrics={"minus_ap": -0.5}, error=None, seconds=1)
    assert cli.main(["retrain", known, "--store", url, "--stack", "3"]) == 0
    assert asked[0].space == dataclasses.replace(space, width=24, stacks=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shufflenet:x", "--stack", "3"], "stack=3 cannot be set: space='shufflenet' has no stacks"),
        (["shufflenet:x", "--anytime"], "anytime=True cannot be set: space='shufflenet' has no stacks"),
        (["nas-fpn:NAS-FPN", "--preset", "tiny", "--anytime"], "anytime=True needs stacks=1 to be at least 2"),
        (["nas-fpn:NAS-FPN", "--stack", "0"], "space.stacks=0 must be at least 1"),
        (["nas-fpn:NAS-FPN", "--stack", "x"], "space.stacks='x' must be a valid integer"),
        (["nas-fpn:NAS-FPN", "--space.cells", "9", "--task", "scenes"], "has 7 cells, not 9"),
        (["nas-fpn:NAS-FPN", "--space.image-size", "128"], "--space.image-size"),
        (["nas-fpn:NAS-FPN", "--config", "other.yaml"], "space={'name': 'nas-fpn', 'stacks': 3} cannot be set"),
    ],
)
def test_a_size_that_a_network_cannot_have_is_refused(url, tmp_path, words, said, capsys):
    (tmp_path / "other.yaml").write_text("space: {name: nas-fpn, stacks: 3}\n")
    assert cli.main(["retrain", *words, "--store", url]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--task", "voc:photos"], ("voc:photos", 128)),
        (["--task", "voc:photos", "--image-size", "256"], ("voc:photos", 256)),
        (["--task", "digits"], ("digits", None)),
    ],
)
def test_a_detector_keeps_the_size_of_its_images_on_other_ones(url, asked, capsys, words, expected):
    known, _ = stored(url, "nas-fpn", "found", {"task": "scenes", "image_size": 128, "max_images": 90})
    assert cli.main(["retrain", known, "--store", url, *words]) == 0
    assert (asked[0].task, asked[0].image_size, asked[0].max_images) == (*expected, None)


@pytest.mark.slow
def test_an_architecture_of_the_default_space_is_trained_again(url, capsys):
    known, _ = stored(url, "shufflenet")
    words = ["--store", url, "--max-images", "300", "--epochs", "1", "--final.batch-size", "32", "--name", "again"]
    assert cli.main(["retrain", known[:6], *words]) == 0
    said = capsys.readouterr().out
    assert known in said
    assert "top again --limit 10" in said
    assert cli.main(["top", "again", "--store", url]) == 0
    assert known in capsys.readouterr().out
    with Store(url) as store:
        (trial,) = store.trials(store.run("again").id, "final")
        row = store.runs()[-1]
    assert trial.architecture == known
    assert {"standalone_error", "test_error"} <= trial.measurements.keys()
    assert (row["name"], row["trials"], row["best"]) == ("again", 1, trial.measurements["standalone_error"])

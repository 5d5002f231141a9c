"""Predictors as files and as commands: what is saved is what is loaded, and nothing else is taken."""

import json
import shutil
import sqlite3

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nas import load_predictor
from nas.commands import cli
from nas.commands import search as launch
from nas.errors import UsageError
from nas.saved import predictor_jobs, predictors
from nas.saved.predictors import CARD
from nas.store.sql import NewTrial, Store
from nas.tables import Column, Table, write_table
from predictors import PREDICTORS, kind_of, predictor_class
from spaces import presets
from spaces.base import every

SPACE = presets("nasbench201")["paper"]
DESCRIBED = predictors.described("nasbench201", SPACE)
ROWS = np.asarray(every(SPACE))[np.random.default_rng(0).permutation(15_625)[:40]]
ERRORS = (0.5 - 0.05 * (ROWS == 3).sum(1) + 0.01 * ROWS[:, 0]).astype(np.float32)
SMALL = {
    "nao": {"hidden": 8, "steps": 5, "batch_size": 8},
    "seminas": {"hidden": 8, "steps": 5, "batch_size": 8, "unlabelled": 20},
    "gates": {"hidden": 8, "steps": 5, "batch_size": 8},
    "mlp-ensemble": {"hidden": 8, "steps": 5, "batch_size": 8},
    "boosted-trees": {"trees": 5},
}


def fitted(kind: str, start=None):
    predictor = predictor_class(kind)(**SMALL.get(kind, {}))
    return predictors.fit(kind, predictor, DESCRIBED, ROWS, ERRORS, start=start, task="made up")


# `seminas` is `nao` with other settings, and `gates` is an ensemble as `mlp-ensemble` is.
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in ("seminas", "gates"))) for k in PREDICTORS]
)
def test_what_is_loaded_predicts_what_was_saved(tmp_path, kind):
    """After a second fit on top of the first, too, of which the file knows no more than the numbers of rows."""
    first = fitted(kind)
    second = fitted(kind, start=first)
    for i, saved in enumerate((first, second)):
        predictors.write(saved, tmp_path / str(i))
        loaded = load_predictor(tmp_path / str(i))
        assert loaded.card == json.loads(json.dumps(saved.card))
        assert loaded.predictor == saved.predictor
        for ours, theirs in zip(saved.predict(SPACE, ROWS), loaded.predict(SPACE, ROWS), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert second.card["rows"] == [40, 40]
    assert kind_of(first.predictor) == kind


def test_the_card_says_what_the_predictor_is(tmp_path):
    card = fitted("linear").card
    assert card["kind"] == "linear"
    assert card["objective"] == "error"
    assert card["unit"] == "share"
    assert card["rows"] == [40]
    assert len(card["digest"]) == 64
    assert card["quality"]["rows"] == 8
    assert card["quality"]["kendall_tau"] > 0.5
    assert {"jax", "numpy", "nas-engine"} <= card["versions"].keys()


def test_what_was_measured_twice_is_held_out_twice():
    """Of noise nothing can be told, also where another run has measured the same."""
    noise = np.random.default_rng(1).random(len(ROWS)).astype(np.float32)
    twice, values = np.concatenate([ROWS, ROWS]), np.concatenate([noise, noise])
    once, both = (
        predictors.fit("gp", predictor_class("gp")(), DESCRIBED, rows, targets, task="x", objective="y", unit="z")
        for rows, targets in ((ROWS, noise), (twice, values))
    )
    assert both.card["quality"]["rows"] == 2 * once.card["quality"]["rows"]
    assert abs(both.card["quality"]["kendall_tau"]) < 0.6
    assert predictors._numbered(np.array([[3], [1], [3], [2], [1]])).tolist() == [0, 1, 0, 2, 1]


def test_more_rows_than_a_chunk_are_scored(monkeypatch):
    saved = fitted("linear")
    at_once = saved.predict(SPACE, ROWS)[0]
    monkeypatch.setattr(predictors, "CHUNK", 7)
    np.testing.assert_allclose(saved.predict(SPACE, ROWS)[0], at_once, rtol=1e-5)
    assert len(saved.predict(SPACE, ROWS[:0])[0]) == 0


# Refusals


@pytest.fixture
def folder(tmp_path):
    predictors.write(fitted("linear"), tmp_path / "saved")
    return tmp_path / "saved"


def change_card(folder, **changes):
    """As somebody would who also knows where the sum of the card is kept."""
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))
    rewrite(folder, lambda arrays: arrays)


def rewrite(folder, change):
    import hashlib

    note = {"card": hashlib.sha256((folder / "card.json").read_bytes()).hexdigest()}
    arrays = change(load_file(folder / "predictor.safetensors"))
    save_file(arrays, folder / "predictor.safetensors", {"note": json.dumps(note)})


def other_card(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"objective": "latency_ms"}))


def truncate(folder):
    data = (folder / "predictor.safetensors").read_bytes()
    (folder / "predictor.safetensors").write_bytes(data[: len(data) // 2])


def with_pickle(folder):
    (folder / "model.pkl").write_bytes(b"\x80\x04.")


def with_link(folder):
    (folder / "card.json").rename(folder.parent / "card.json")
    (folder / "card.json").symlink_to(folder.parent / "card.json")


REFUSED = {
    "truncated": (truncate, "is not a whole weights file"),
    "changed card": (other_card, "one of them was changed"),
    "pickle": (with_pickle, "holds 'model.pkl', which is no part of a predictor"),
    "link": (with_link, "holds 'card.json', which is no part of a predictor"),
    "not JSON": (lambda folder: (folder / "card.json").write_text("{"), "cannot be read"),
    "no card": (lambda folder: (folder / "card.json").unlink(), "is not a predictor: it has no card.json"),
    "format": (lambda folder: change_card(folder, format=2), "format=2 is not one of 1"),
    "kind": (lambda folder: change_card(folder, kind="liner"), "did you mean 'linear'"),
    "settings": (lambda folder: change_card(folder, settings={"iterations": 0}), "iterations=0 must be at least 1"),
    "unknown setting": (lambda folder: change_card(folder, settings={"code": "x"}), "code"),
    "encoding": (lambda folder: change_card(folder, fingerprint="0" * 16), "another version of the encoding"),
    "rows": (lambda folder: change_card(folder, rows=["40"]), "must be 1 to 100 numbers in 2..1000000"),
    "NaN": (
        lambda folder: rewrite(folder, lambda a: a | {".weights": a[".weights"] * np.float32("nan")}),
        "holds NaN or infinity",
    ),
    "shape": (lambda folder: rewrite(folder, lambda a: a | {".weights": a[".weights"][:-1]}), "must be float32 [30]"),
    "missing": (
        lambda folder: rewrite(folder, lambda a: {k: v for k, v in a.items() if k != ".basis"}),
        "lacks the array '.basis'",
    ),
    "extra": (
        lambda folder: rewrite(folder, lambda a: a | {"more": np.zeros(1, np.float32)}),
        "'more', which is no part of a Linear",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_damaged_or_was_changed_is_refused_in_one_line(folder, spoil, said):
    load_predictor(folder)
    spoil(folder)
    with pytest.raises(UsageError) as refusal:
        load_predictor(folder)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_writing_that_was_cut_short_is_done_again(folder, tmp_path):
    saved, begun = load_predictor(folder), tmp_path / "begun"
    predictors.write(saved, begun)
    (begun / CARD).rename(begun / f"{CARD}.0123abcd.tmp")
    predictors.write(saved, begun)
    assert load_predictor(begun).card == saved.card
    assert len(list(begun.iterdir())) == 2
    (begun / CARD).rename(begun / "mine.json")
    with pytest.raises(UsageError, match="is not empty"):
        predictors.write(saved, begun)


def test_another_space_is_refused(folder):
    other = presets("shufflenet")["tiny"]
    with pytest.raises(UsageError, match="cannot score architectures of ShuffleNet"):
        load_predictor(folder).predict(other, np.zeros((1, 9), np.int32))
    with pytest.raises(UsageError, match="each choice of the space"):
        load_predictor(folder).predict(SPACE, np.full((1, 6), 5))


def test_too_few_rows_are_refused():
    with pytest.raises(UsageError, match="rows=1 are too few"):
        predictors.fit("linear", predictor_class("linear")(), DESCRIBED, ROWS[:1], ERRORS[:1])


# Commands, as a user types them


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A benchmark in which convolutions help."""
    rows = np.asarray(every(SPACE))
    worth = np.array([0.0, 0.3, 0.7, 1.0, 0.2])[rows] @ np.array([1.0, 0.5, 0.9, 0.4, 0.6, 1.0])
    columns, values = {}, {}
    for epochs in (12, 200):
        for split in ("valid", "test"):
            columns[f"cifar10_{split}_error_e{epochs}"] = Column("error", "share", "cifar10", split, epochs)
            values[f"cifar10_{split}_error_e{epochs}"] = np.clip(0.6 - worth / 10, 0, 1).astype(np.float32)
        columns[f"cifar10_seconds_e{epochs}"] = Column("seconds", "s", "cifar10", None, epochs)
        values[f"cifar10_seconds_e{epochs}"] = np.full(len(rows), epochs, np.float32)
    for name, cost in SPACE.cost(jnp.asarray(rows)).items():
        columns[name], values[name] = Column("cost", name), np.asarray(cost)
    path = tmp_path_factory.mktemp("tables") / "made-up.npz"
    write_table(path, Table(str(path), "nasbench201", "nobody", columns, values))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search(table, *flags: str) -> int:
    return launch.main(["--space", "nasbench201", "--task", f"table:{table}", "--workers", "0", *flags])


def nas(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()  # what was said before
    status = cli.main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_predictor_is_saved_shown_measured_asked_handed_on_and_used(here, table, capsys):
    first = "--strategy bayesian --trials 30 --seed 1 --name s1 --save-predictor s1-gp"
    assert search(table, *first.split()) == 0
    assert search(table, "--strategy", "random", "--trials", "30", "--name", "s2", "--seed", "5") == 0
    assert nas(capsys, "predictors", "fit", "linear", "--from-runs", "s1,s2", "--name", "both")[0] == 0
    listed = json.loads(nas(capsys, "predictors", "list", "--format", "json")[1])
    assert [(row["name"], row["kind"], row["rows"]) for row in listed] == [("s1-gp", "gp", 30), ("both", "linear", 60)]
    shown = nas(capsys, "predictors", "show", "s1-gp")[1]
    assert "held_out_kendall_tau" in shown
    measured = json.loads(nas(capsys, "predictors", "evaluate", "s1-gp", "--on-run", "s2", "--format", "json")[1])[0]
    assert measured["kendall_tau"] > 0.5
    assert measured["learned_from"] is False
    words = ("predictors", "score", "both", "--space", "nasbench201", "--sample", "20000", "--top", "3")
    best = json.loads(nas(capsys, *words, "--format", "json")[1])
    assert best[0]["description"].count("nor_conv_3x3") == 6
    assert len({row["architecture"] for row in best}) == 3
    assert nas(capsys, "predictors", "export", "both", "--out", "given")[0] == 0
    assert nas(capsys, "predictors", "import", "given", "--name", "got", "--store", "sqlite:///other.db")[0] == 0
    again = nas(capsys, *words[:2], "got", *words[3:], "--format", "json", "--store", "sqlite:///other.db")[1]
    assert json.loads(again) == best
    flags = ("--strategy", "regularized-evolution", "--trials", "10", "--name", "s3", "--prescreen", "both")
    assert search(table, *flags) == 0
    top = json.loads(nas(capsys, "top", "s3", "--limit", "1", "--format", "json")[1])[0]
    random = json.loads(nas(capsys, "top", "s2", "--limit", "1", "--format", "json")[1])[0]
    assert top["error"] < random["error"]  # ten that were screened, and thirty that were not


def test_a_predictor_of_what_more_is_better_of_is_named_in_either_spelling(here, capsys):
    given = {"given": {"objectives": "minus_ap"}, "architectures": DESCRIBED}
    with Store("sqlite:///nas.db", create=True) as store:
        run = store.add_run(
            name="it", space="nasbench201", strategy="random", task="coco", config=given, code_version="0", seed=0
        )
        store.add_trials(
            run.id, [NewTrial(i, f"a{i}", row.tolist(), "", "nasbench201", 2, 0) for i, row in enumerate(ROWS)]
        )
        for i, error in enumerate(ERRORS):
            store.finish_trial(run.id, i, metrics={"minus_ap": float(error) - 1}, error=None, seconds=1)
    spellings = {"first": [], "second": ["--objective", "ap"], "third": ["--objective", "minus_ap"]}
    for name, words in spellings.items():
        assert nas(capsys, "predictors", "fit", "linear", "--from-run", "it", "--name", name, *words)[0] == 0
    best = {name: nas(capsys, "predictors", "score", name, "--format", "json")[1] for name in spellings}
    assert best["first"] == best["second"] == best["third"]
    rows = json.loads(best["first"])
    assert rows[0]["predicted_ap"] == max(row["predicted_ap"] for row in rows) > 0
    assert rows[0]["description"].count("nor_conv_3x3") == 6
    [row, *_] = json.loads(nas(capsys, "predictors", "list", "--format", "json")[1])
    assert row["objective"] == "ap"
    [quality] = json.loads(nas(capsys, "predictors", "evaluate", "first", "--on-run", "it", "--format", "json")[1])
    assert quality["kendall_tau"] > 0.5
    _, _, said = nas(capsys, "predictors", "fit", "linear", "--from-run", "it", "--name", "x", "--objective", "error")
    assert "it has ap" in said


def test_a_predictor_whose_name_is_taken_meanwhile_is_kept_under_another(here, table, capsys, monkeypatch):
    words = ["--strategy", "bayesian", "--trials", "12", "--name", "s1", "--save-predictor", "mine"]
    monkeypatch.setattr(predictor_jobs, "save", interrupted)
    assert search(table, *words) == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert nas(capsys, "predictors", "fit", "linear", "--from-run", "s1", "--name", "mine")[0] == 0
    assert launch.main(["--resume", "s1"]) == 0
    assert "Another predictor was called mine meanwhile: this one is mine-2." in capsys.readouterr().err
    assert launch.main(["--resume", "s1"]) == 0
    listed = json.loads(nas(capsys, "predictors", "list", "--format", "json")[1])
    assert [(row["name"], row["kind"]) for row in listed] == [("mine", "linear"), ("mine-2", "gp")]


def test_a_predictor_of_a_version_that_did_not_note_its_run_is_not_saved_twice(here, table, capsys):
    words = ["--strategy", "bayesian", "--trials", "12", "--name", "s1", "--save-predictor", "mine"]
    assert search(table, *words) == 0
    with sqlite3.connect("nas.db") as database:
        [[text]] = database.execute("select card from predictor").fetchall()
        card = {name: value for name, value in json.loads(text).items() if name != "saved_by"}
        database.execute("update predictor set card = ?", [json.dumps(card)])
    assert launch.main(["--resume", "s1"]) == 0
    assert [row["name"] for row in json.loads(nas(capsys, "predictors", "list", "--format", "json")[1])] == ["mine"]


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_strategy_goes_on_from_a_saved_predictor(here, table, capsys):
    small = [f"--strategy.{name}" for name in ("initial=5", "num-seeds=4", "draws=2", "pool=50")]
    small += [f"--strategy.predictor.{name}" for name in ("steps=5", "hidden=8", "unlabelled=50", "members=1")]
    small = [part for flag in small for part in flag.split("=")]
    flags = ("--trials", "20", "--name", "s1", "--save-predictor", "s1-nao")
    assert search(table, "--strategy", "seminas", *small, *flags) == 0
    assert search(table, "--strategy", "nao", *small[:6], "--warm-start", "s1-nao", "--trials", "20") == 0
    begun = (
        "--strategy",
        "bayesian",
        "--strategy.initial",
        "4",
        "--trials",
        "8",
        "--name",
        "b1",
        "--save-predictor",
        "gp",
    )
    assert search(table, *begun) == 0
    assert search(table, "--strategy", "bayesian", "--warm-start", "gp", "--trials", "4", "--name", "b2") == 0
    assert search(table, "--resume", "b2") == 0
    words = ("predictors", "fit", "seminas", "--from-run", "s1", "--warm-start", "s1-nao", "--name", "more")
    assert nas(capsys, *words)[0] == 0
    card = json.loads(nas(capsys, "predictors", "show", "more", "--format", "json")[1])[0]
    assert card["rows"] == [20, 20]


def test_mistakes_are_one_line(here, table, capsys):
    assert search(table, "--strategy", "random", "--trials", "12", "--name", "s1") == 0
    assert nas(capsys, "predictors", "fit", "linear", "--from-run", "s1", "--name", "it")[0] == 0
    mistakes = {
        ("fit", "linaer", "--from-run", "s1", "--name", "x"): "did you mean 'linear'",
        ("fit", "linear", "--name", "x"): "from-run or from-runs must name",
        ("fit", "linear", "--from-run", "s1", "--name", "it"): "already one of store",
        ("fit", "linear", "--from-run", "s1", "--name", "../x"): "must be letters, digits",
        (
            "fit",
            "linear",
            "--from-run",
            "s1",
            "--name",
            "x",
            "--objective",
            "watts",
        ): "objective='watts' was not measured",
        ("fit", "gp", "--from-run", "s1", "--name", "x", "--warm-start", "it"): "is a 'linear', not a 'gp'",
        ("score", "it", "--space", "shufflenet"): "cannot score architectures of",
        ("score", "it", "--sample", "0"): "sample=0 must be at least 1",
        ("score", "it", "--seed", "4294967296"): "seed=4294967296 must lie in 0..4294967295",
        ("score", "it", "--seed", "-1"): "seed=-1 must lie in 0..4294967295",
        ("score", "it", "--top", "1_0"): "'1_0' must be a valid integer",
        ("show", "nobody"): "nobody",
        ("import", "nowhere"): "nowhere cannot be read",
        ("lst",): "did you mean 'list'",
    }
    for flag, said in {
        "--prescreen": "prescreen='1h' must be a kind of predictor (auto, ",
        "--warm-start": "warm-start='1h' must be a saved one: predictor='1h' is not in store",
    }.items():
        assert search(table, "--strategy", "nao", flag, "1h") == 2
        assert said in capsys.readouterr().err
    for words, said in mistakes.items():
        status, _, error = nas(capsys, "predictors", *words)
        assert status == 2, words
        assert said in error, (words, error)
        assert error.count("\n") == 1
    flags = {
        ("--strategy", "random", "--save-predictor", "x"): "needs a strategy that learns by a predictor",
        ("--strategy", "random", "--warm-start", "it"): "needs a strategy that goes on from a predictor",
        ("--strategy", "random", "--warm-start", "it", "--prescreen", "gp"): "is of no use beside prescreen='gp'",
        ("--strategy", "nao", "--save-predictor", "it"): "already one of store",
        ("--strategy", "nao", "--warm-start", "it"): "from which this strategy cannot go on",
        ("--strategy", "random", "--prescreen", "nobody"): "nobody",
        ("--strategy", "nao", "--strategy.predictor.hidden", "0"): "hidden=0 must be at least 1",
    }
    for words, said in flags.items():
        assert search(table, *words) == 2
        error = capsys.readouterr().err
        assert said in error, (words, error)
    (here / "nas.db.files" / ".predictors" / "it" / "evil.py").write_text("import os")
    assert "holds 'evil.py'" in nas(capsys, "predictors", "score", "it")[2]
    shutil.rmtree(here / "nas.db.files")
    assert nas(capsys, "predictors", "score", "it")[0] == 2

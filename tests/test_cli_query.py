"""The command `nas`, as it is typed."""

import csv
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from nas.commands.cli import main
from nas.report import output
from nas.report.progress import Bar
from nas.store.lock import locked
from nas.store.query import IDENTITY, METRICS, RUN_COLUMNS
from nas.store.sql import NewTrial, Store

REPOSITORY = Path(__file__).parent.parent
RUN = "toy-evolution-digits-3"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/nas.db"
    with Store(url, create=True) as store:
        run = store.add_run(
            name=None, space="toy", strategy="evolution", task="digits", config={}, code_version="0", seed=3
        )
        store.add_trials(
            run.id,
            [NewTrial(i, f"{i}af3", [i, 0, 1], "|nor_conv_3x3~0|+" * 6, "toy", 2, i) for i in range(5)],
        )
        for i in range(3):
            metrics = {"error": 0.5 - i / 10, "macs": 2.31e6 + i * 1e6, "params": 5e4, "supernet_error": 0.25}
            store.finish_trial(run.id, i, metrics=metrics, error=None, seconds=1.25)
        store.finish_trial(run.id, 3, metrics=None, error="boom", seconds=1)
        store.finish_trial(run.id, 4, metrics={"error": float("nan")}, error=None, seconds=1)
        store.add_trials(run.id, [NewTrial(0, "2af3", [2, 0, 1], "", "toy", 9, 0)], kind="final")
        store.finish_trial(run.id, 0, metrics={"test_error": 0.0312}, error=None, seconds=60, kind="final")
        store.add_artifact(run.id, kind="weights", path="w.safetensors", sha256="x", architecture="2af3")
    return url


def nas(*words: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nas", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, **options)


def answer(capsys, *words: str) -> str:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def complaint(capsys, *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nas: error: ")
    assert err.count("\n") == 1
    return err


# End to end.


def test_the_best_of_a_run_as_json(url):
    done = nas(
        "top",
        RUN,
        "--by",
        "error",
        "--limit",
        "2",
        "--where",
        "macs < 5e6",
        "--store",
        url,
        "--format",
        "json",
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = json.loads(done.stdout)
    assert list(first) == [*IDENTITY, *METRICS, "supernet_error"]
    assert (first["architecture"], first["encoding"], first["trial"]) == ("2af3", [2, 0, 1], 2)
    assert (first["error"], first["test_error"], first["macs"]) == (0.3, 0.0312, 4.31e6)
    assert second["test_error"] is None


def test_a_mistake_is_one_line_and_status_2(tmp_path):
    done = nas("runs", "--store", f"sqlite:///{tmp_path}/none.db")
    assert (done.returncode, done.stdout) == (2, "")
    said = (
        f"store=sqlite:///{tmp_path}/none.db does not exist in {tmp_path}: a search makes it, and --store names another"
    )
    assert done.stderr == f"nas: error: {said}\n"
    assert list(tmp_path.iterdir()) == []


def test_help_is_light():
    script = (
        "import sys, nas.commands.cli; nas.commands.cli.main(['top', '--help']); print([*sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert "--where" in done.stdout
    for heavy in ("jax", "sqlalchemy", "alembic", "rich", "numpy", "ray"):
        assert f"'{heavy}'" not in done.stderr


def test_a_closed_pipe_is_silent(url):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "nas", "top", RUN, "--store", url]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_answer_that_cannot_be_written_is_one_line_and_status_1(url):
    command = [sys.executable, "-m", "nas", "runs", "--store", url]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert done.returncode == 1
    assert done.stderr == "nas: error: the answer cannot be written: No space left on device\n"


# Answers.


def test_json_is_an_array_of_objects_with_null_for_what_is_missing(capsys, url):
    (run,) = json.loads(answer(capsys, "runs", "--format", "json", "--store", url))
    assert list(run) == list(RUN_COLUMNS)
    assert (run["name"], run["status"], run["trials"], run["best"]) == (RUN, "stopped", 4, 0.3)
    (shown,) = json.loads(answer(capsys, "show", "2a", "--format", "json", "--store", url))
    assert list(shown) == ["id", "encoding", "description", "space", "scores", "artifacts"]
    assert Path(shown["artifacts"][0]["path"]).name == "w.safetensors"
    (nan,) = json.loads(answer(capsys, "show", "4af3", "--format", "json", "--store", url))
    assert nan["scores"][0]["value"] is None


def test_csv_has_a_header_and_an_encoding_of_integers(capsys, url):
    rows = list(csv.DictReader(io.StringIO(answer(capsys, "top", RUN, "--format=csv", "--store", url))))
    assert list(rows[0]) == [*IDENTITY, *METRICS, "supernet_error"]
    assert (rows[0]["encoding"], rows[0]["test_error"], rows[1]["test_error"]) == ("2 0 1", "0.0312", "")
    scores = list(csv.DictReader(io.StringIO(answer(capsys, "show", "2af3", "--format", "csv", "--store", url))))
    assert {row["name"]: row["value"] for row in scores}["test_error"] == "0.0312"


def test_a_table_is_plain_text_with_numbers_for_people(capsys, url):
    header, first, *others = answer(capsys, "top", RUN, "--store", url).splitlines()
    assert header.split()[:4] == ["architecture", "space", "trial", "error"]
    assert header.split()[-1] == "description"
    assert first.endswith("|nor_conv_3x3~0|+" * 6)  # no terminal, nothing cut
    assert first.split()[3:-1] == ["30.00", "%", "3.12", "%", "4.31M", "50.00k", "1.2", "25.00", "%"]
    assert len(others) == 2
    assert "\x1b" not in first


def test_nothing_found_is_still_an_answer(capsys, url):
    ask = ("top", "latest", "--where", "error < 0", "--store", url)
    assert answer(capsys, *ask) == "nothing to show\n"
    assert answer(capsys, *ask, "--format", "json") == "[]\n"
    assert answer(capsys, *ask, "--format", "csv") == ",".join([*IDENTITY, *METRICS]) + "\n"


def test_the_front_is_sorted_by_its_first_objective(capsys, url):
    rows = json.loads(answer(capsys, "pareto", RUN, "--objectives", "macs, error", "--format", "json", "--store", url))
    assert [row["trial"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("width", [72, 80, 120, 300])
def test_a_table_fits_its_terminal_and_keeps_what_was_asked_for(url, width):
    with Store(url) as store:
        rows = store.top(RUN)
    text = output.render(rows, (*IDENTITY, *METRICS), "table", width, asked=["supernet_error"])
    lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "").rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    assert len(lines) == 4
    assert all(word in lines[0] for word in ("architecture", "error", "macs", "supernet_error"))
    assert ("|nor_conv_3x3~0|+" * 6 in lines[1]) == (width == 300)


@pytest.mark.parametrize("width", [None, 80, 120, 300])
def test_rows_that_fit_are_laid_out_as_those_that_are_wrapped(url, width, monkeypatch):
    """Thousands of rows are written without the library that breaks lines."""
    with Store(url) as store:
        rows = [*store.top(RUN), {"architecture": "x", "macs": None, "description": "short"}]
    asked = (rows, (*IDENTITY, *METRICS), "table", width)
    soon = output.render(*asked)

    def wrapped(texts, widths, numeric, bold):
        return output._wrapped(texts, widths, numeric, width or 1000, bold)

    monkeypatch.setattr(output, "_lines", wrapped)
    library = output.render(*asked)
    plain = [output.STYLE.sub("", text) for text in (soon, library)]
    assert [line.rstrip() for line in plain[0].splitlines()] == [line.rstrip() for line in plain[1].splitlines()]
    assert ("\x1b[1marchitecture" in soon) == ("\x1b[1marchitecture" in library) == (width is not None)


def test_export_hands_the_whole_id_to_the_exporter(capsys, url, monkeypatch):
    calls = []

    def export(store, *rest, reporter, replace, packed, form):
        assert isinstance(reporter, Bar)
        calls.append((store.url, *rest, replace, packed, form))
        return RUN

    exporter = types.SimpleNamespace(export=export)
    monkeypatch.setitem(sys.modules, "nas.saved.exports", exporter)
    assert "2af3" in answer(capsys, "export", "2a", "--out", "there", "--store", url)
    words = ["--run", "latest", "--replace", "--packed", "--format", "jax", "--store", url]
    assert RUN in answer(capsys, "export", "2af3", "--out", "there", *words)
    with Store(url) as store:
        run = store.run(RUN)
    (_, first, *rest), (_, _, *again) = calls
    assert rest == [Path("there"), None, False, False, "jax"]
    assert again == [Path("there"), run, True, True, "jax"]
    assert first == "2af3"


# What more is better of.


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    """A run that has found boxes: each network is larger than the one before, and better but for the last."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/nas.db"
    given = {"given": {"objectives": "minus_ap,macs"}, "metric": "minus_ap"}
    with Store(url, create=True) as store:
        run = store.add_run(
            name="boxes", space="toy", strategy="random", task="coco", config=given, code_version="0", seed=0
        )
        store.add_trials(run.id, [NewTrial(i, f"{i}af3", [i], f"toy({i})", "toy", 2, 0) for i in range(4)])
        for i, ap in enumerate((0.0, 0.25, 0.312, 0.3)):
            metrics = {"minus_ap": -ap, "minus_ap50": -1.5 * ap, "macs": 1e6 * (i + 1)}
            store.finish_trial(run.id, i, metrics=metrics, error=None, seconds=1)
        store.add_trials(run.id, [NewTrial(0, "2af3", [2], "toy(2)", "toy", 9, 0)], kind="final")
        metrics = {"standalone_minus_ap": -0.4, "test_minus_ap": -0.35}
        store.finish_trial(run.id, 0, metrics=metrics, error=None, seconds=60, kind="final")
    return url


def test_what_more_is_better_of_is_shown_as_it_is_the_most_first(capsys, detected):
    header, first, *_, last = answer(capsys, "top", "boxes", "--store", detected).splitlines()
    names = dict(zip(header.split(), first.split(), strict=True))
    assert (names["architecture"], names["ap"], names["ap50"]) == ("2af3", "0.312", "0.468")
    assert (names["standalone_ap"], names["test_ap"]) == ("0.4", "0.35")
    assert last.split()[0] == "0af3"
    assert "-0" not in last
    (run,) = json.loads(answer(capsys, "runs", "--format", "json", "--store", detected))
    assert (run["objective"], run["best"]) == ("ap", 0.312)
    assert "minus" not in answer(capsys, "show", "2af3", "--store", detected)
    shown = csv.DictReader(io.StringIO(answer(capsys, "show", "2af3", "--format", "csv", "--store", detected)))
    assert {"ap": "0.312", "test_ap": "0.35"}.items() <= {row["name"]: row["value"] for row in shown}.items()


@pytest.mark.parametrize(
    ("words", "trials"),
    [
        (["top", "boxes", "--by", "ap"], [2, 3, 1, 0]),
        (["top", "boxes", "--by", "minus_ap"], [2, 3, 1, 0]),
        (["top", "boxes", "--by", "standalone_ap"], [2]),
        (["top", "boxes", "--where", "ap > 0.29 and ap50 < 0.46"], [3]),
        (["top", "boxes", "--where", "minus_ap < -0.3"], [2]),
        (["pareto", "boxes"], [2, 1, 0]),
        (["pareto", "boxes", "--objectives", "macs,ap"], [0, 1, 2]),
        (["pareto", "boxes", "--objectives", "minus_ap"], [2]),
    ],
)
def test_either_spelling_is_understood(capsys, detected, words, trials):
    rows = json.loads(answer(capsys, *words, "--format", "json", "--store", detected))
    assert [row["trial"] for row in rows] == trials
    assert [row["ap"] for row in rows] == [(0.0, 0.25, 0.312, 0.3)[trial] for trial in trials]
    assert not any("minus" in name for row in rows for name in row)


def test_a_misspelt_one_is_answered_with_what_is_shown(capsys, detected):
    said = complaint(capsys, "top", "boxes", "--by", "ap5", "--store", detected)
    assert "is not one of ap, ap50, error" in said
    assert "minus" not in said


@pytest.mark.parametrize(
    ("words", "reference", "volume"),
    [
        ([], [0.0, 4e6], 0.25 * 2e6 + 0.062 * 1e6),
        (["--reference", "0.2,5e6"], [0.2, 5e6], 0.05 * 3e6 + 0.062 * 2e6),
        (["--objectives", "ap,macs", "--reference", "0.2,5e6"], [0.2, 5e6], 0.05 * 3e6 + 0.062 * 2e6),
        (["--objectives", "minus_ap,macs", "--reference=-0.2,5e6"], [0.2, 5e6], 0.05 * 3e6 + 0.062 * 2e6),
    ],
)
def test_a_volume_reaches_down_to_the_reference(capsys, detected, words, reference, volume):
    (row,) = json.loads(answer(capsys, "hypervolume", "boxes", *words, "--format", "json", "--store", detected))
    assert (row["objectives"], row["reference"], row["front"]) == ("ap,macs", reference, 3)
    assert row["hypervolume"] == pytest.approx(volume)
    assert row["ideal"] == [0.312, 1e6]
    assert row["share"] == pytest.approx(volume / ((0.312 - reference[0]) * (reference[1] - 1e6)))


def test_a_volume_is_a_share_of_what_lies_between_ideal_and_reference(capsys, url):
    header, row = answer(capsys, "hypervolume", RUN, "--store", url).splitlines()
    assert header.split()[1:] == ["objectives", "ideal", "reference", "front", "share", "hypervolume"]
    assert "30.00 %, 2.31M" in row
    assert "50.00 %, 4.31M" in row
    (found,) = json.loads(answer(capsys, "hypervolume", RUN, "--format", "json", "--store", url))
    assert found["share"] == pytest.approx(0.25)


def test_the_front_is_of_the_runs_own_objectives(capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/nas.db"
    with Store(url, create=True) as store:
        given = {"given": {"objectives": "error,params,minus_ap"}}
        facts = {"space": "toy", "strategy": "nsga2", "task": "digits", "code_version": "0", "seed": 0}
        run = store.add_run(name="three", config=given, **facts)
        store.add_trials(run.id, [NewTrial(i, f"{i}af3", [i], "toy", "toy", 0, 0) for i in range(3)])
        for i in range(3):
            metrics = {"error": 0.1, "params": 5.0, "minus_ap": -0.1 * i, "macs": float(i)}
            store.finish_trial(run.id, i, metrics=metrics, error=None, seconds=1)
    rows = json.loads(answer(capsys, "pareto", "three", "--format", "json", "--store", url))
    assert [row["trial"] for row in rows] == [2]
    (row,) = json.loads(answer(capsys, "hypervolume", "three", "--format", "json", "--store", url))
    assert row["objectives"] == "error,params,ap"
    assert row["share"] == 0


def test_runs_that_ended_and_left_nothing_are_counted_and_not_listed(capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/nas.db"
    facts = {"space": "toy", "strategy": "random", "task": "digits", "code_version": "0", "seed": 0, "config": {}}
    with Store(url, create=True) as store:
        runs = {name: store.add_run(name=name, **facts) for name in ("hollow", "with-trial", "with-file", "begun")}
        store.add_trials(runs["with-trial"].id, [NewTrial(0, "0af3", [0], "toy", "toy", 0, 0)])
        (store.folder(runs["with-file"]) / "supernet.safetensors").write_bytes(b"")
        for name in ("hollow", "with-trial", "with-file"):
            store.set_status(runs[name].id, "failed")
        with locked(store.folder(runs["begun"]), "begun"):
            text = answer(capsys, "runs", "--store", url)
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["with-trial", "with-file", "begun"]
    assert text.endswith("\n\n1 run that ended and left nothing is left out; --all lists all\n")
    assert "hollow" in answer(capsys, "runs", "--all", "--store", url)
    assert len(json.loads(answer(capsys, "runs", "--format", "json", "--store", url))) == 4


# Mistakes.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "one of runs, top, show, pareto, hypervolume, report, plot, dashboard, search, "),
        (["tpo"], "did you mean 'top'?"),
        (["--store", "x", "runs"], "--store must follow a command"),
        (["top"], "required: RUN"),
        (["top", "x", "--bye", "error"], "did you mean '--by'?"),
        (["top", "x", "y"], "unrecognized arguments: y"),
        (["top", "x", "--limit", "many"], "'many' must be a valid integer"),
        (["top", "x", "--limit", "010"], "'010' must be a valid integer, in decimal digits"),
        (["runs", "--format", "jsn"], "did you mean 'json'?"),
        (["runs", "--store", "nas.db"], "not a database URL"),
        (
            ["runs", "--store", "postgresql://me:secret@host:abc/x"],
            "'postgresql://me:***@host:abc/x' is not a database",
        ),
        (
            ["runs", "--store", "postgresql://me:se/c@ret@host:5x/x"],
            "'postgresql://me:***@host:5x/x' is not a database",
        ),
        (["runs", "--store", "postgresql//me:secret@host/x"], "'postgresql//me:***@host/x' is not a database URL"),
        (["export", "x"], "required: --out"),
        (["export", "x", "--out", ""], "argument --out: '' must be a path"),
    ],
)
def test_a_misspelt_command_line_is_answered_with_the_nearest(capsys, words, says):
    assert says in complaint(capsys, *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["top", "toy-evolutoin-digits-3"], f"did you mean '{RUN}'?"),
        (["top", RUN, "--by", "eror"], "did you mean 'error'?"),
        (["top", RUN, "--by", ""], "by='' is not one of"),
        (["hypervolume", RUN, "--reference", "1,nan"], "reference='1,nan' must be finite numbers"),
        (["hypervolume", RUN, "--reference", "1,1e999"], "reference='1,1e999' must be finite numbers"),
        (["top", RUN, "--where", "macs is small"], "macs < 3e6"),
        (["top", RUN, "--limit", "0"], "limit=0 must be at least 1"),
        (["pareto", RUN, "--objectives", "error,mac"], "did you mean 'macs'?"),
        (["show", "zzz"], "architecture='zzz' is not in store="),
        (["export", "zzz", "--out", "there"], "architecture='zzz' is not in store="),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_one_that_does(capsys, url, words, says):
    assert says in complaint(capsys, *words, "--store", url)


def test_an_interrupt_is_silent_and_130(capsys, url, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "runs", interrupted)
    assert main(["runs", "--store", url]) == 130
    assert capsys.readouterr() == ("", "")


def test_help_is_status_0(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("runs", "top", "show", "pareto", "export"))

"""Tables of one's own: a CSV file, a space that somebody else wrote, and architectures that nobody measured."""

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import of_one_budget

import nas
from nas import registry
from nas.commands import cli
from nas.commands import search as launch
from nas.errors import UsageError, unwritable
from nas.store.sql import Store
from nas.tables import read_table
from nas.tables.build import build
from spaces.base import every

SPACE = str(Path(__file__).parent.parent / "examples" / "my_space.py") + ":Chain"
NAMES = ["architecture", "mine_valid_error_e5", "mine_test_error_e5", "mine_seconds_e5", "latency_ms"]
MEASURED = 40
CELL = "3x1-3x1-3x1"


@pytest.fixture(scope="module")
def rows() -> list[list]:
    """Forty architectures of 729; kernels of 3 and wide layers are good."""
    space = registry.value("space", SPACE)
    draw, found = np.random.default_rng(0), []
    for row in draw.permutation(every(space))[:MEASURED]:
        error = 0.5 - 0.05 * (row[::2] == 1).sum() - 0.03 * row[1::2].sum()
        found.append([space.describe(row), round(error, 4), round(error + 0.01, 4), 10.0 + row.sum(), 1.0 + row.sum()])
    return found


@pytest.fixture(scope="module")
def table(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    written(folder / "mine.csv", [NAMES, *rows])
    words = ["table", "build", str(folder / "mine.csv"), "--space", SPACE, "--out", str(folder / "mine.npz")]
    assert cli.main(words) == 0
    return folder / "mine.npz"


def written(path: Path, rows: list[list]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def search(table: Path, *words: str) -> int:
    flags = ["--workers", "0", "--name", "it"]  # there is one dataset in it, trained for one number of epochs
    return launch.main(["--space", SPACE, "--task", f"table:{table}", *flags, *words])


def test_what_was_measured_is_in_the_table_and_the_rest_is_not(table, rows):
    found = read_table(str(table))
    assert (found.space_name, found.source) == ("my_space.py:Chain", "mine.csv")
    assert found.measured.sum() == MEASURED
    assert len(found.measured) == 729
    encodings = every(found.space)
    known = {found.space.describe(encodings[i]): i for i in np.flatnonzero(found.measured)}
    for text, error, _, seconds, latency in rows:
        values = [found.values[name][known[text]] for name in (NAMES[1], NAMES[3], NAMES[4])]
        np.testing.assert_allclose(values, [error, seconds, latency], rtol=1e-6)


@pytest.mark.parametrize("strategy", of_one_budget())
def test_strategies_look_only_at_what_was_measured_and_end_when_that_is_all(
    table, rows, strategy, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    trials = 60 if strategy in ("random", "local-search", "regularized-evolution") else 24
    assert search(table, "--strategy", strategy, "--trials", str(trials)) == 0
    with Store("sqlite:///nas.db") as store:
        found = [trial.description for trial in store.trials(store.run("it").id)]
        final = store.trials(store.run("it").id, "final")
    assert set(found) <= {row[0] for row in rows}
    if trials > MEASURED:
        assert len(found) == len(set(found)) == MEASURED
        assert "every architecture of the space that was measured was evaluated" in capsys.readouterr().err
    assert {trial.description for trial in final} <= {row[0] for row in rows}
    assert {"standalone_error", "test_error"} <= final[0].measurements.keys()


def test_a_refusal_names_what_was_typed_and_nothing_of_ours(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, said in {
        ("--objectives", "watts"): "objectives='watts' is not one of error, latency_ms",
        ("--limit", "latency_ms <= -1"): "limit latency_ms <= -1 excludes every architecture: the smallest latency_ms",
    }.items():
        assert search(table, "--strategy", "random", *words) == 2
        assert said in (found := capsys.readouterr().err)
        assert "unmeasured" not in found


def test_python_is_told_of_a_search_that_ends_early(table, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nas.search(space=SPACE, task=f"table:{table}", strategy="random", trials=60, workers=0, finalists=0)
    assert "The search ends after 40 of 60 trials: every architecture of the space that was measured" in caplog.text


def test_strategies_are_compared_on_it(table, capsys):
    words = ["--space", SPACE, "--task", f"table:{table}", "--dataset", "mine", "--epochs", "5", "--seeds", "8"]
    assert cli.main(["compare", *words, "--trials", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["random", "regularized-evolution", "local-search"]
    assert cli.main(["compare", *words, "--budget-seconds", "200", "--limit", "latency_ms <= 8"]) == 0
    capsys.readouterr()
    assert cli.main(["table", "show", str(table), "--space", SPACE, "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {row["column"]: (row["kind"], row["unit"]) for row in shown}["latency_ms"] == ("cost", "ms")
    assert {row["gaps"] for row in shown} == {729 - MEASURED}


def test_what_was_compared_is_not_lost_where_it_cannot_be_written(table, tmp_path, capsys, monkeypatch):
    words = ["compare", "--space", SPACE, "--task", f"table:{table}", "--seeds", "3", "--trials", "9"]
    (tmp_path / "file").write_text("")
    assert cli.main([*words, "--out", str(tmp_path / "file")]) == 2
    told = capsys.readouterr().err
    assert "cannot be written" in told
    assert "random ..." not in told  # it is said before anything is compared
    monkeypatch.setattr("nas.commands.compare.write", full)
    assert cli.main([*words, "--out", str(tmp_path / "full")]) == 1
    found = capsys.readouterr()
    assert "regularized-evolution" in found.out
    assert "No space left" in found.err


def full(*_):
    raise unwritable("out", OSError(errno.ENOSPC, "No space left on device"))


def test_a_table_of_one_space_is_not_searched_in_another(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert search(table, "--space.layers", "2") == 2
    assert "has other fields, or other code, than when" in capsys.readouterr().err
    assert launch.main(["--space", "nasbench201", "--task", f"table:{table}"]) == 2
    assert "space='nasbench201' is not that of" in capsys.readouterr().err
    assert search(table, "--table.epochs", "6") == 2
    assert "epochs=6 is not in" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("train",), ("zero-cost",), ("supernet", "--evaluator.affine")], ids=" ".join)
def test_a_table_says_what_is_measured_and_no_evaluator_does(flags, table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert search(table, "--evaluator", *flags) == 2
    said = capsys.readouterr().err
    assert f"evaluator='{flags[0]}' cannot be set: the table of task='table:" in said
    assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_table_runs_no_code_that_nobody_named(table, monkeypatch):
    monkeypatch.setattr(registry, "_given", {})
    with pytest.raises(UsageError, match="is code that this process was not told to run"):
        read_table(str(table))


def test_what_nobody_timed_is_compared_by_trials(rows, tmp_path, capsys):
    path = written(tmp_path / "untimed.csv", [["architecture", "mine_valid_error_e5"], *[row[:2] for row in rows]])
    out = str(tmp_path / "untimed.npz")
    assert cli.main(["table", "build", str(path), "--space", SPACE, "--out", out]) == 0
    words = ["compare", "--space", SPACE, "--task", f"table:{out}", "--seeds", "4", "--strategies", "random"]
    capsys.readouterr()
    assert cli.main([*words, "--trials", "9", "--out", str(tmp_path / "plots")]) == 0
    assert "mine_valid" in capsys.readouterr().out
    assert cli.main(words) == 2
    assert "has no column 'mine_seconds_e5'; --trials is the budget that needs none" in capsys.readouterr().err


def test_an_export_of_what_only_a_table_knows_says_what_can_be_done(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert search(table, "--strategy", "random", "--trials", "5") == 0
    said = capsys.readouterr()
    assert "After the longest training in the table" in said.out
    assert "Training" not in said.err
    with Store("sqlite:///nas.db") as store:
        known = store.trials(store.run("it").id, "final")[0].architecture
    assert cli.main(["export", known, "--out", "x"]) == 2
    assert "a table has no weights; " in (said := capsys.readouterr().err)
    assert f"nas retrain {known} --task TASK trains it" in said


BAD = {
    "a name of the archive": ([[*NAMES, "header"], [CELL, 0.1, 0.1, 1, 1, 1]], "and none of header, encodings, file"),
    "a name of ours": ([[*NAMES, "unmeasured"], [CELL, 0.1, 0.1, 1, 1, 1]], "column 'unmeasured' must be letters"),
    "a long name": ([[*NAMES, "a" * 10**5], [CELL, 0.1, 0.1, 1, 1, 1]], "must be letters, digits and underscores"),
    "many columns": ([[*NAMES, *(f"a{i}" for i in range(2000))]], "has 2005 columns; allowed: 1000"),
    "no error": ([NAMES, [CELL, "", "", 1, 1]], "has no error of any architecture"),
    "too large": ([NAMES, [CELL, 0.1, 0.1, 1, "1e39"]], "latency_ms='1e39' must be a number up to 1e+30, or empty"),
    "an odd number": ([NAMES, [CELL, 0.1, 0.1, "1_0", 1]], "mine_seconds_e5='1_0' must be a number"),
    "a long cell": ([NAMES, ["|" * 10**5, 0.1, 0.1, 1, 1]], "is not of the space"),
    "percent": ([NAMES, [CELL, 12.5, 0.1, 1, 1]], "line 2: mine_valid_error_e5=12.5 must be a share in 0..1"),
    "no time": ([NAMES, [CELL, 0.1, 0.1, 0, 1]], "line 2: mine_seconds_e5=0 must be above 0"),
    "no rows": ([NAMES], "has no rows"),
    "no architecture": ([NAMES[1:], [0.1, 0.1, 1, 1]], "the first line must name the columns, 'architecture'"),
    "a column twice": ([[*NAMES, "latency_ms"], [CELL, 0.1, 0.1, 1, 1, 1]], "'latency_ms' is there twice"),
    "nothing to search by": ([["architecture", "error"], [CELL, 0.1]], "must hold the errors to search by"),
    "a cell too few": ([NAMES, [CELL, 0.1]], "line 2: 2 cells must be 5"),
    "no architecture of it": ([NAMES, ["7x1-3x1-3x1", 0.1, 0.1, 1, 1]], "line 2: architecture='7x1-3x1-3x1' is not of"),
    "one twice": (
        [NAMES, *[[CELL, 0.1, 0.1, 1, 1]] * 2],
        "is that of line 2",
    ),
    "no number": (
        [NAMES, [CELL, "low", 0.1, 1, 1]],
        "line 2: mine_valid_error_e5='low' must be a number",
    ),
    "a name of blanks": ([[*NAMES, "a b"], [CELL, 0.1, 0.1, 1, 1, 1]], "column 'a b' must be letters"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_table_is_one_line(kind, tmp_path, capsys):
    lines, said = BAD[kind]
    path = written(tmp_path / "bad.csv", lines)
    assert cli.main(["table", "build", str(path), "--space", SPACE, "--out", str(tmp_path / "out.npz")]) == 2
    assert said in (found := capsys.readouterr().err)
    assert len(found) < 1500
    assert not (tmp_path / "out.npz").exists()


CARELESS = """
import dataclasses
import jax.numpy as jnp
import numpy as np

@dataclasses.dataclass(frozen=True)
class Digits:
    cardinalities: tuple[int, ...] = (4, 4, 4)

    def identity(self): return {"cardinalities": self.cardinalities}
    def canonical(self, encodings): return encodings
    def describe(self, encoding): return "-".join(map(str, encoding.tolist()))
    def parse(self, text):
        row = np.array([int(word) for word in text.split("-")], np.int32)
        if 4 in row:  # of the choices that there are not it knows this one alone
            raise ValueError("4 is none")
        return row
    def cost(self, encodings): return {"sum": encodings.sum(1).astype(jnp.float32)}
    def build(self, encoding, key): raise NotImplementedError
    def supernet(self, key, *, affine=False): raise NotImplementedError

class Lawless(Digits):
    def canonical(self, encodings): return encodings + 1
"""


def test_a_row_that_only_a_careless_space_takes_is_of_no_other_architecture(tmp_path, capsys):
    (tmp_path / "careless.py").write_text(CARELESS)

    def built(text: str, name: str = "Digits") -> str:
        path = written(tmp_path / "rows.csv", [NAMES[:2], [text, 0.1]])
        words = ["--space", f"{tmp_path / 'careless.py'}:{name}", "--out", str(tmp_path / "out.npz")]
        code = cli.main(["table", "build", str(path), *words])
        said = capsys.readouterr()
        assert code == (2 if said.err else 0)
        return said.err

    for text, said in {
        "0-9-0": "encoding[1]=9 must lie in 0..3",
        "9-9-9": "encoding[0]=9 must lie in 0..3",
        "0-0": "encoding must be a list of 3 whole numbers",
    }.items():
        assert f"line 2: architecture={text!r} is not of the space: {said}" in built(text)
    assert "breaks a law: canonical rows are choices of the space" in built("0-0-0", "Lawless")
    assert not (tmp_path / "out.npz").exists()
    assert built("0-3-0") == ""


def test_what_is_no_file_is_not_replaced_by_one(rows, tmp_path, capsys):
    path = written(tmp_path / "mine.csv", [NAMES, *rows])
    os.mkfifo(tmp_path / "pipe")
    for out, said in {
        tmp_path / "pipe": "it is there, and is not a file",
        tmp_path: "it is there, and is not a file",
        tmp_path / "mine.csv" / "x": "is not a folder",
    }.items():
        assert cli.main(["table", "build", str(path), "--space", SPACE, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert {each.name for each in tmp_path.iterdir()} == {"mine.csv", "pipe"}
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("command", ["build", "show"])
def test_what_never_ends_is_not_read(command, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path)):
        words = ["--space", SPACE, *(["--out", str(tmp_path / "out.npz")] if command == "build" else [])]
        assert cli.main(["table", command, path, *words]) == 2
        assert "cannot be read: it is not a file" in capsys.readouterr().err


def test_a_space_too_large_to_list_is_refused(tmp_path):
    path = written(tmp_path / "x.csv", [NAMES])
    with pytest.raises(UsageError, match="a table holds at most 65536"):
        build(path, "darts", "me")


LONG = ["architecture", "mine_valid_error_e5", "mine_valid_error_e50", "mine_test_error_e50"]


def test_of_an_architecture_that_lacks_a_number_the_search_knows_nothing(rows, tmp_path, capsys, monkeypatch):
    """A column may have gaps. A search draws around those that it looks at; the report tells of the longest training
    that there is of each."""
    monkeypatch.chdir(tmp_path)
    lines = [[text, error, round(error / 2, 4), round(error / 4, 4)] for text, error, *_ in rows]
    lines[0][1] = lines[1][1] = ""  # never trained for 5 epochs
    for line in lines[2::2]:
        line[2] = line[3] = ""  # nor for 50
    written(tmp_path / "long.csv", [LONG, *lines])
    assert cli.main(["table", "build", "long.csv", "--space", SPACE, "--out", "long.npz"]) == 0
    capsys.readouterr()
    words = ["--strategy", "random", "--trials", "60", "--table.epochs", "5", "--baselines", "12"]
    assert search(tmp_path / "long.npz", *words) == 0
    with Store("sqlite:///nas.db") as store:
        found = [trial.description for trial in store.trials(store.run("it").id)]
        final = {trial.description: trial.measurements for trial in store.trials(store.run("it").id, "final")}
    assert sorted(found) == sorted(line[0] for line in lines[2:])
    assert len(final) > 6
    known = {line[0]: line for line in lines}
    for text, measured in final.items():
        _, short, long, tested = known[text]
        assert measured["standalone_error"] == pytest.approx(long or short)
        assert measured.get("test_error", "") == (pytest.approx(tested) if tested != "" else "")
    words = ["compare", "--space", SPACE, "--task", "table:long.npz", "--epochs", "5", "--seeds", "3", "--trials", "15"]
    capsys.readouterr()
    assert cli.main(words) == 0  # which reports the longest, so it draws from those that have it
    assert "mine_test" in capsys.readouterr().out
    words[words.index("5")] = "50"
    assert cli.main([*words, "--strategies", "random,successive-halving"]) == 0  # which also looks at 5 epochs
    assert search(tmp_path / "long.npz", "--strategy", "successive-halving", "--trials", "60", "--name", "halved") == 0
    with Store("sqlite:///nas.db") as store:
        looked_at = {trial.description for trial in store.trials(store.run("halved").id)}
    assert looked_at == {text for text, *numbers in lines if "" not in numbers}


def test_what_nobody_chose_is_the_longest_training_and_of_datasets_one_must_be_named(
    rows, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lines = [[text, error, round(error / 2, 4), round(error / 4, 4)] for text, error, *_ in rows]
    written(tmp_path / "long.csv", [LONG, *lines])
    written(
        tmp_path / "two.csv", [["architecture", "a_valid_error_e1", "b_valid_error_e1"], *(row[:3] for row in lines)]
    )
    for name in ("long", "two"):
        assert cli.main(["table", "build", f"{name}.csv", "--space", SPACE, "--out", f"{name}.npz"]) == 0
    assert search(tmp_path / "long.npz", "--strategy", "random", "--trials", "5", "--finalists", "0") == 0
    with Store("sqlite:///nas.db") as store:
        found = {trial.description: trial.measurements["error"] for trial in store.trials(store.run("it").id)}
    assert found == {line[0]: pytest.approx(line[2]) for line in lines if line[0] in found}
    capsys.readouterr()
    assert launch.main(["--space", SPACE, "--task", f"table:{tmp_path / 'two.npz'}", "--name", "other"]) == 2
    assert "has several datasets, of which one must be named: a, b (--table.dataset" in capsys.readouterr().err


def test_a_table_is_read_with_the_code_that_it_was_built_with(rows, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_given", {})
    code = Path(SPACE.removesuffix(":Chain")).read_text()
    written(tmp_path / "mine.csv", [NAMES, *rows])
    (tmp_path / "my_space.py").write_text(code)
    assert cli.main(["table", "build", "mine.csv", "--space", "my_space.py:Chain", "--out", "mine.npz"]) == 0
    show = ["table", "show", "mine.npz", "--space", "my_space.py:Chain"]
    (tmp_path / "my_space.py").write_text("# a comment\n" + code)
    assert cli.main(show) == 0
    (tmp_path / "my_space.py").write_text(code.replace("(1, 2, 4)", "(1, 4, 2)"))
    capsys.readouterr()
    assert cli.main(show) == 2
    assert "has other fields, or other code, than when table='mine.npz' was built" in capsys.readouterr().err


def test_what_is_no_table_is_not_replaced_by_one(rows, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "mine.csv", [NAMES, *rows])
    before = path.read_bytes()
    assert cli.main(["table", "build", "mine.csv", "--space", SPACE, "--out", "mine.csv"]) == 2
    assert "out='mine.csv' is there, and is no table: it is not replaced" in capsys.readouterr().err
    assert path.read_bytes() == before


WIDE = """
from my_space import *
@dataclasses.dataclass(frozen=True)
class Wide(Chain):
    cardinalities = (300, 2)
    def identity(self): return {}
    def canonical(self, encodings): return encodings
    def describe(self, encoding): return "-".join(str(int(choice)) for choice in encoding)
    def parse(self, text):
        row = [int(word) for word in text.split("-")]
        if len(row) != 2 or not (0 <= row[0] < 300 and 0 <= row[1] < 2):
            raise ValueError(f"{text!r} must be such as 299-1")
        return np.array(row, np.int32)
    def cost(self, encodings): return {"macs": encodings.sum(1).astype("float32")}
"""


def test_a_decision_may_have_more_choices_than_a_byte_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = Path(SPACE.removesuffix(":Chain")).read_text()
    (tmp_path / "wide.py").write_text(f"import dataclasses\n{code}{WIDE.replace('from my_space import *', '')}")
    lines = [[f"{i}-{j}", (i + j) / 400] for i in range(300) for j in range(2)]
    written(tmp_path / "wide.csv", [NAMES[:2], *lines])
    assert cli.main(["table", "build", "wide.csv", "--space", "wide.py:Wide", "--out", "wide.npz"]) == 0
    found = read_table("wide.npz")
    np.testing.assert_allclose(found.values[NAMES[1]], [error for _, error in lines], rtol=1e-6)


def test_a_predictor_learns_from_a_run_in_a_space_of_ones_own(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_given", {})
    monkeypatch.setattr(registry, "_values", {})
    assert search(table, "--strategy", "random", "--trials", "30", "--finalists", "0") == 0
    monkeypatch.setattr(registry, "_given", {})
    fit = ["predictors", "fit", "linear", "--from-run", "it", "--name", "mine"]
    capsys.readouterr()
    assert cli.main(fit) == 2
    assert "name it: --space path/to/my_space.py:Chain" in capsys.readouterr().err
    assert cli.main([*fit, "--space", SPACE]) == 0
    monkeypatch.setattr(registry, "_given", {})
    assert cli.main(["predictors", "evaluate", "mine", "--on-run", "it", "--space", SPACE]) == 0
    monkeypatch.setattr(registry, "_given", {})
    assert cli.main(["predictors", "score", "mine", "--sample", "50", "--top", "3", "--space", SPACE]) == 0


@pytest.mark.parametrize("limit", ["unmeasured <= 0", "params <= 100"])
def test_a_limit_is_on_a_column_of_the_table(limit, table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert search(table, "--limit", limit) == 2
    said = capsys.readouterr().err
    assert f"limit on {limit.split()[0]!r}: the costs of a table are its columns: latency_ms" in said

"""Parts of one's own: named by file, module or entry point, or given as values; refused in one line; run by no file."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Toy

import nas
from nas import config, registry
from nas.commands import cli
from nas.commands import search as launch
from nas.engine.ray_pool import RayPool
from nas.engine.ray_session import start_ray, stop_ray
from nas.errors import UsageError
from nas.store.sql import Store
from nas.tables import Column, Table, write_table
from predictors.linear import Linear
from spaces import presets
from spaces.base import every, fingerprint
from spaces.costs import with_cost
from strategies.random_search import RandomSearch

ROOT = Path(__file__).parents[1]
CELLS = presets("nasbench201")["paper"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the examples, where nothing of one's own is known yet."""
    for path in (ROOT / "examples").glob("*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_given", {})
    monkeypatch.setattr(registry, "_sources", {})
    monkeypatch.setattr(registry, "_values", {})
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    rows = np.asarray(every(CELLS))
    worth = (0.9 - 0.1 * (rows == 3).sum(1)).astype(np.float32)
    columns, values = {}, {}
    for split in ("valid", "test"):
        name = f"cifar10_{split}_error_e12"
        columns[name], values[name] = Column("error", "share", "cifar10", split, 12), worth
    columns["cifar10_seconds_e12"] = Column("seconds", "s", "cifar10", None, 12)
    values["cifar10_seconds_e12"] = np.full(len(rows), 12, np.float32)
    for name, cost in CELLS.cost(jnp.asarray(rows)).items():
        columns[name], values[name] = Column("cost", name), np.asarray(cost)
    path = tmp_path_factory.mktemp("tables") / "made-up.npz"
    write_table(path, Table(str(path), "nasbench201", "nobody", columns, values))
    return f"table:{path}"


CHAIN = {"name": "my_space.py:Chain", "layers": 1, "width": 2}
SHORT = {"evaluator": "train", "final": {"steps": 3}, "trials": 2, "workers": 0, "baselines": 0}
SHORT |= {"strategy": "random", "max_images": 100, "task": "my_task.py:load"}


QUICK = {"space": CHAIN, "strategy": "random", "max_images": 100, "task": "my_task.py:load", "finalists": 0}
QUICK |= {"baselines": 0, "trials": 3, "name": "it"}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_evaluator_in_a_file_scores_is_resumed_and_has_fields(here, workers, capsys):
    data = {**QUICK, "evaluator": {"name": "my_evaluator.py:Probe", "images": 60}, "workers": workers}
    outcome = nas.search(**data)
    assert outcome.objective == "probe_error"
    assert all(0 <= row["probe_error"] <= 1 and row["macs"] > 0 for row in outcome.best)
    assert nas.search(resume="it", evaluator={"name": "my_evaluator.py:Probe"}).best == outcome.best
    flags = ["--evaluator", "my_evaluator.py:Probe", "--evaluator.images"]
    assert launch.main([*flags, "60", "--resume", "it"]) == 0
    assert launch.main([*flags, "61", "--resume", "it"]) == 2
    assert "evaluator cannot be changed by --resume" in capsys.readouterr().err
    assert launch.main([*flags, "x"]) == 2
    assert "evaluator.images='x' must be a valid integer" in capsys.readouterr().err


def test_an_evaluator_as_a_value_may_measure_anything(here):
    outcome = nas.search(**{**QUICK, "evaluator": Ones(7), "workers": 0})
    assert [row["ones"] for row in outcome.best] == sorted(row["ones"] for row in outcome.best)
    with Store(outcome.store) as store:
        for trial in store.trials(store.run("it").id):
            assert trial.measurements["ones"] == trial.encoding.count(1) + 7


@dataclasses.dataclass(frozen=True)
class Ones:
    more: int = 0
    metrics = ("ones",)

    def prepare(self, space, task):
        return lambda encoding, budget, seed: {"ones": encoding.count(1) + self.more}


EVALUATORS = {
    "class E:\n    metrics = ('error',)\n    def prepare(self, space, task): ...": "must be a frozen dataclass",
    "E = frozen('E', metrics=('error',))": "must have a method prepare(space, task)",
    "E = frozen('E', prepare=lambda self, space, task: None)": "metrics=None must be a tuple of names",
    "E = frozen('E', metrics='error', prepare=lambda self, space, task: None)": "metrics='error' must be a tuple",
    "E = frozen('E', metrics=('error',), prepare=lambda *_: lambda *_: 0.5)": "gives float, not",
    "E = frozen('E', metrics=('error',), prepare=lambda *_: lambda *_: {'eror': 1})": "gives ['eror'], not",
    "E = frozen('E', metrics=('error',), prepare=lambda *_: lambda *_: 1 / 0)": "ZeroDivisionError",
}


@pytest.mark.parametrize("code", EVALUATORS)
def test_what_is_no_evaluator_is_one_line(here, code, capsys):
    (here / "bad.py").write_text(
        "import dataclasses\n"
        "def frozen(name, **kept): return dataclasses.make_dataclass(name, [], namespace=kept, frozen=True)\n" + code
    )
    words = ["--space", "my_space.py:Chain", "--space.layers", "1", "--task", "my_task.py:load", "--trials", "2"]
    words += ["--evaluator", "bad.py:E", "--workers", "0", "--strategy", "random"]
    assert launch.main(words) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert EVALUATORS[code] in said


def test_a_cost_in_a_file_is_a_limit_and_an_objective(here, capsys):
    (here / "plain.py").write_text(
        "import numpy as np\n"
        "def wide(space, encodings):\n"
        "    rows = np.asarray(encodings)\n"
        "    return {'wide': [float(row[1]) for row in rows.tolist()], 'first': rows[:, 0] + 1.0}\n"
    )
    data = {**QUICK, "evaluator": Ones(), "workers": 0, "trials": 9, "cost": "plain.py:wide"}
    outcome = nas.search(**data, limit="wide <= 1", objectives="ones,wide")
    assert len(outcome.best) == 5
    with Store(outcome.store) as store:
        trials = store.trials(store.run("it").id)
    assert len(trials) == 6  # of nine, the widest three are too wide
    for trial in trials:
        assert trial.measurements["wide"] == trial.encoding[1] <= 1
        assert trial.measurements["first"] == trial.encoding[0] + 1
    assert nas.search(resume="it", cost="plain.py:wide", evaluator=Ones()).best == outcome.best
    assert cli.main(["top", "it", "--where", "wide <= 0", "--by", "first"]) == 0
    for code, said in {
        "def wide(space, encodings): return encodings[:, :1]": "gives [16, 1] for 16 architectures, not [16]",
        "def wide(space, encodings): return encodings[:, 0] / 0": "must be finite numbers",
        "def wide(space, encodings): return 1 / 0": "bad.py, line 1: ZeroDivisionError",
        "def wide(space): return 1": "TypeError",
    }.items():
        (here / "bad.py").write_text(code)
        words = ["--space", "my_space.py:Chain", "--evaluator", "train", "--task", "my_task.py:load"]
        assert launch.main([*words, "--cost", "bad.py:wide"]) == 2
        assert said in capsys.readouterr().err


def test_a_cost_may_build_on_what_the_space_costs(here):
    (here / "energy.py").write_text("def joules(space, rows): return 2 * space.cost(rows)['macs']")
    space = with_cost(presets("shufflenet")["tiny"], registry.own("cost", "energy.py:joules"))
    costs = jax.jit(space.cost)(jnp.asarray([[0] * 9, [2] * 9]))
    np.testing.assert_array_equal(costs["joules"], 2 * costs["macs"])


def test_a_cost_is_of_the_same_space_everywhere(here):
    space = presets("shufflenet")["tiny"]
    cost = registry.own("cost", "my_cost.py:phone_ms")
    priced = with_cost(space, cost)
    assert priced == with_cost(space, cost)
    assert hash(priced) == hash(with_cost(space, cost))
    assert fingerprint(priced) == fingerprint(space)
    assert dataclasses.replace(priced, image_size=16).cost(jnp.zeros((2, 9), jnp.int32))["phone_ms"].shape == (2,)
    rows = jnp.asarray([[0] * 9, [2] * 9])
    np.testing.assert_allclose(jax.jit(priced.cost)(rows)["phone_ms"], [0.5 + 9 * 0.4, 0.5 + 9 * 0.9], rtol=1e-5)
    again = pickle_for_workers(priced)
    np.testing.assert_allclose(again.cost(rows)["phone_ms"], priced.cost(rows)["phone_ms"])


def pickle_for_workers(value):
    from ray import cloudpickle

    return cloudpickle.loads(cloudpickle.dumps(value))


def test_a_space_and_a_task_in_files_are_searched_resumed_shown_exported_and_retrained(here, capsys, monkeypatch):
    outcome = nas.search(space=CHAIN, **SHORT, name="mine")
    with Store(outcome.store) as store:
        run = store.run("mine")
        assert (run.space, run.task) == ("my_space.py:Chain", "my_task.py:load")
        assert run.config["given"]["space"]["name"] == f"{here}/my_space.py:Chain"
    other = here / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    assert nas.search(resume="mine", store=f"sqlite:///{here}/nas.db", workers=0).best == outcome.best
    monkeypatch.chdir(here)
    found = outcome.best[0]["architecture"]
    for words in (["show", found], ["top", "mine"], ["export", found, "--out", "best"]):
        assert cli.main(words) == 0
    words = ["retrain", found, "--epochs", "1", "--task", "my_task.py:load", "--max-images", "100", "--name", "again"]
    assert cli.main(words) == 0
    assert "again" in capsys.readouterr().out
    images = np.zeros((3, 8, 8, 1), np.uint8)
    assert set(nas.load("best").classify(images)) <= {"standing", "lying"}


def test_a_file_from_elsewhere_runs_no_code(here, monkeypatch):
    outcome = nas.search(space=CHAIN, **SHORT, name="mine")
    assert cli.main(["export", outcome.best[0]["architecture"], "--out", "best"]) == 0
    monkeypatch.setattr(registry, "_given", {})  # as in another process
    with pytest.raises(UsageError, match="code that this process was not told to run"):
        nas.load("best")
    description = json.loads((here / "best" / "architecture.json").read_text())
    (here / "evil.py").write_text("open('ran', 'w')\n")
    (here / "package").mkdir()
    (here / "package" / "__init__.py").write_text("open('ran', 'w')\n")
    for name in ("evil.py:X", f"{here}/evil.py:X", "evil:X", "package.part:X"):
        changed = {**description, "space": {**description["space"], "name": name}}
        (here / "best" / "architecture.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError):
            nas.load("best")
    assert not (here / "ran").exists()


def test_a_strategy_in_a_file_searches_is_resumed_and_compared(here, table, capsys):
    words = ["--space", "nasbench201", "--task", table, "--strategy", "my_strategy.py:Greedy", "--trials", "15"]
    words += ["--table.epochs", "12", "--strategy.initial", "4"]
    assert launch.main([*words, "--name", "mine"]) == 0
    assert launch.main(["--resume", "mine"]) == 0
    with Store("sqlite:///nas.db") as store:
        assert len(store.trials(store.run("mine").id)) == 15
        assert store.run("mine").config["given"]["strategy"]["initial"] == 4
    capsys.readouterr()
    words = ["--strategies", "random,my_strategy.py:Greedy", "--my_strategy.py:Greedy.initial", "2", "--seeds", "3"]
    assert cli.main(["compare", "--task", table, "--trials", "12", *words]) == 0
    assert "my_strategy.py:Greedy" in capsys.readouterr().out


def test_a_module_that_can_be_imported_is_named_with_dots(here, table):
    (here / "package").mkdir()
    shutil.copy("my_strategy.py", here / "package" / "greedy.py")
    strategy = config.build_strategy({"name": "package.greedy:Greedy", "initial": 3})
    assert strategy.initial == 3
    assert registry.portable("package.greedy:Greedy") == "package.greedy:Greedy"


class Point:
    """An entry point of an installed package."""

    name = "fresh"

    def load(self):
        return RandomSearch


def test_an_entry_point_of_an_installed_package_is_a_name(here, monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda kind: {"fresh": Point()} if kind == "strategy" else {})
    assert config.build_strategy("fresh") == RandomSearch()
    with pytest.raises(UsageError, match="'fresh' is not one of"):
        config.build_space("fresh")


@dataclasses.dataclass(frozen=True)
class Own(RandomSearch):
    pass


def test_values_from_python_are_what_their_names_are(here, table):
    data = config.from_values({"space": CELLS, "strategy": Own(budget=2), "trials": 3})
    assert data["space"]["name"] == "nasbench201"
    assert config.build_space(data["space"]) == CELLS
    assert data["strategy"] == {"name": f"{__name__}:Own", "budget": 2, "memory": RandomSearch().memory}
    assert config.build_strategy(data["strategy"]) == Own(budget=2)
    outcome = nas.search(space=CELLS, strategy=Own(), task=table, table={"epochs": 12}, trials=3, workers=0, name="it")
    again = nas.search(resume="it", strategy=Own())
    assert again.best == outcome.best
    with pytest.raises(UsageError, match="strategy cannot be changed"):
        nas.search(resume="it", strategy=Own(budget=7))
    with pytest.raises(UsageError, match="'int' must be a name"):
        nas.search(space=3)


def test_images_in_memory_are_a_task(here):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (120, 8, 8, 1), dtype=np.uint8), np.arange(120) % 2
    given = {**SHORT, "task": images}
    outcome = nas.search(space=CHAIN, **given, name="it")
    with Store(outcome.store) as store:
        name = store.run("it").task
    assert name.startswith("arrays:")
    assert nas.search(resume="it", task=images).best == outcome.best
    with pytest.raises(UsageError, match="task cannot be changed"):
        nas.search(resume="it", task=(images[0], 1 - images[1]))
    registry._given.clear()
    with pytest.raises(UsageError, match="lay in the memory of a process"):
        nas.search(resume="it")


SCRIPT = """
import dataclasses, sys, nas
from my_space import Chain
from my_task import load

print("begun")

@dataclasses.dataclass(frozen=True)
class Mine(Chain):
    layers: int = 1

@dataclasses.dataclass(frozen=True)
class Ones:
    metrics = ("ones",)
    def prepare(self, space, task):
        return lambda encoding, budget, seed: {"ones": encoding.count(1)}

def inner():
    return dataclasses.dataclass(frozen=True)(type("Inner", (Mine,), {"__qualname__": "inner.<locals>.Inner"}))()

data = {"strategy": "random", "max_images": 100, "finalists": 0, "baselines": 0, "trials": 2, "workers": 0}
space = inner() if "inner" in sys.argv else Mine()
print(len(nas.search(space=space, evaluator=Ones(), task=load, name="it", **data).best), "best")
"""
HOW = {
    "a file": (["script.py"], "script.py starts a job where its parts are looked for: put that under if __name__"),
    "a function in it": (["script.py", "inner"], "Inner' lay in the memory of a process; give it again"),
    "a text": (
        ["-c", SCRIPT],
        "space='__main__:Mine' lay in the memory of a process; give it again: nas.search(resume",
    ),
    "a pipe": (["-"], "space='__main__:Mine' lay in the memory of a process; give it again: nas.search(resume"),
}


@pytest.mark.parametrize("how", HOW)
def test_what_a_script_defines_is_used_and_the_script_is_not_run_again(how, here, capsys):
    words, said = HOW[how]
    (here / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *words], cwd=here, input=SCRIPT if words == ["-"] else "", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "begun\n2 best\n"), done.stderr
    assert launch.main(["--resume", "it"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]


def test_what_a_script_defines_is_found_by_another_process_that_does_not_start_its_job(here):
    script = SCRIPT.replace("print(len(", 'if __name__ == "__main__": print(len(')
    (here / "script.py").write_text(script)
    subprocess.run([sys.executable, "script.py"], cwd=here, check=True)
    assert launch.main(["--resume", "it"]) == 0


def test_what_has_no_name_is_no_part(here):
    for kind, part in {"cost": lambda space, rows: rows[:, 0], "task": lambda: 3}.items():
        with pytest.raises(UsageError, match=f"{kind}=.*<lambda>' has no name by which to find it again"):
            nas.search(**{**QUICK, "evaluator": Ones(), kind: part})
    with pytest.raises(UsageError, match=r"space='Toy' must be a name, .* or a value, such as Toy\(\)"):
        nas.search(space=Toy)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


def test_what_an_exception_says_is_one_line_of_bounded_length():
    assert registry.told(ValueError("a\n  b")) == "ValueError: a b"
    assert registry.told(ValueError()) == "ValueError"
    assert registry.told(ValueError("\ud800")) == r"ValueError: \ud800"
    assert registry.told(Mute()) == "Mute: Mute that says nothing (RuntimeError)"
    assert len(registry.told(ValueError("x" * 10**6))) < 600


def test_two_classes_of_one_name_are_two_spaces(here):
    code = (here / "my_space.py").read_text()
    (here / "other").mkdir()
    (here / "other" / "my_space.py").write_text(code.replace("(1, 2, 4)", "(1, 2, 8)"))
    (here / "same").mkdir()
    (here / "same" / "my_space.py").write_text("# a comment\n" + code)
    one, other, same = (config.build_space(f"{folder}my_space.py:Chain") for folder in ("", "other/", "same/"))
    assert type(one) is not type(other)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(Toy()) != fingerprint(dataclasses.make_dataclass("Toy", [], bases=(Toy,), frozen=True)())


def test_a_file_that_changed_is_not_gone_on_with(here):
    nas.search(space=CHAIN, **SHORT, name="mine")
    code = (here / "my_space.py").read_text()
    (here / "my_space.py").write_text(code.replace("(1, 2, 4)", "(1, 2, 8)"))
    with pytest.raises(UsageError, match="has other code than when mine began"):
        nas.search(resume="mine")


def test_another_file_of_the_same_name_is_not_taken_for_the_first(here):
    nas.search(space=CHAIN, **SHORT, name="mine")
    (here / "other").mkdir()
    shutil.copy("my_space.py", here / "other")
    assert nas.search(resume="mine", space="my_space.py:Chain").name == "mine"
    with pytest.raises(UsageError, match="space cannot be changed"):
        nas.search(resume="mine", space="other/my_space.py:Chain")


HEAD = """
import dataclasses
import functools
import numpy as np
@functools.partial(dataclasses.dataclass, frozen=True, eq=False)
class E:
    metrics = ("sum",)
    def prepare(self, space, task):
        return lambda encoding, budget, seed: {"sum": sum(encoding)}
"""
FIELDS = {
    "    a: list = dataclasses.field(default_factory=lambda: [{1, 2}])": "evaluator.a=[{1, 2}] must be made of numbers",
    "    a: object = frozenset((1,))": "evaluator.a=frozenset({1}) must be made of numbers, texts and truths",
    "    a: object = dataclasses.field(default_factory=lambda: np.ones(1))": "evaluator.a=array([1.]) must be made of",
    "    a: object = sum": "evaluator.a=<built-in function sum> must be made of numbers, texts and truths",
    "    a: object = ((1, 2), 3)": "evaluator.a=((1, 2), 3) would be [[1, 2], 3] in a run that is gone on with",
    "    a: 'Nope' = 1": "evaluator: the types of the fields of E cannot be read: NameError: name 'Nope' is not",
    "    name: str = 'x'": "evaluator='E': no field of it may be called 'name', by which it is chosen",
    "    a: int = 1\n    def __post_init__(self):\n        if self.a > 1: {}['x']": "evaluator: bad.py, line 12: Key",
    "    a: int = 1\n    def __post_init__(self): object.__setattr__(self, 'a', self.a + 1)": "evaluator.a=",
    "    a: np.ndarray = None": "evaluator.a cannot be set: it is of type ndarray; allowed: numbers, texts and truths",
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_no_run_could_be_gone_on_with_is_refused_before_one_is_stored(field, here, capsys):
    (here / "bad.py").write_text(HEAD + field + "\n")
    words = ["--space", "my_space.py:Chain", "--space.layers", "1", "--task", "my_task.py:load", "--trials", "2"]
    words += ["--strategy", "random", "--workers", "0", "--finalists", "0", "--evaluator", "bad.py:E"]
    words += ["--evaluator.a", "7"] if ": int" in field or "ndarray" in field else []
    assert launch.main(words) == 2
    said = capsys.readouterr().err
    assert FIELDS[field] in said
    assert len(said.strip().splitlines()) == 1
    assert not (here / "nas.db").exists()


def test_fields_that_plain_data_can_hold_come_back_as_they_are(here):
    code = "    a: tuple = (1, 2)\n    b: tuple[str, ...] = ('x',)\n    d: float = float('nan')\n"
    (here / "good.py").write_text(HEAD + code + "    c: int = dataclasses.field(init=False, default=3)\n")
    outcome = nas.search(**{**QUICK, "evaluator": {"name": "good.py:E", "a": (3, 4)}, "workers": 0})
    with Store(outcome.store) as store:
        given = store.run("it").given
    assert nas.search(resume="it").best == outcome.best
    again = config.build(given).evaluator
    assert (again.a, again.b, again.c) == ((3, 4), ("x",), 3)
    assert "c" not in given["evaluator"]


MISTAKES = {
    "none.py:X": "space='none.py:X': the file cannot be read",
    "broken.py:X": "broken.py, line 2: ZeroDivisionError: division by zero",
    "syntax.py:X": "syntax.py, line 1: SyntaxError",
    "my_space.py:Chian": "did you mean 'my_space.py:Chain'",
    "my_space.py:Nope": "space='my_space.py:Nope' is not one of my_space.py:Chain; did you mean 'my_space.py:Chain'?\n",
    "my_space.py": "space='my_space.py' must be my_space.py:CLASS, one of my_space.py:Chain\n",
    "my_task.py": "must be my_task.py:CLASS, one of my_task.py:load\n",
    "loose.py": "must be loose.py:CLASS, in which there is none that can be a space\n",
    "device.py:X": "space='device.py:X': the file cannot be read: it is not a file",
    "leaves.py:X": "leaves.py, line 1: SystemExit: 0",
    "leaves_late.py:X": "leaves_late.py, line 3: GeneratorExit",
    "my_space.py:Network": "my_space.py:Network' must be a class or function that can be called without arguments",
    "no.such.module:X": "is not one of binary",
    "loose.py:Loose": "must be a frozen dataclass",
    "lawless.py:Lawless": "space='lawless.py:Lawless' breaks a law: canonical is idempotent; tried [",
    "fails.py:Fails": "breaks a law: cost works in a jitted function; tried [",
}
FILES = {
    "broken.py": "x = 1\ny = x / 0\n",
    "syntax.py": "def f(:\n",
    "loose.py": "class Loose:\n    pass\n",
    "leaves.py": "raise SystemExit(0)\n",
    "leaves_late.py": "class X:\n    def __init__(self):\n        raise GeneratorExit\n",
    "lawless.py": "from my_space import *\nclass Lawless(Chain):\n    canonical = lambda self, e: 1 * (e == 0)\n",
    "fails.py": "from my_space import Chain\nclass Fails(Chain):\n    def cost(self, e):\n        return e.nothing\n",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(name, here, capsys):
    for path, code in FILES.items():
        (here / path).write_text(code)
    (here / "device.py").symlink_to("/dev/zero")
    assert launch.main(["--space", name, "--evaluator", "train", "--task", "digits"]) == 2
    said = capsys.readouterr().err
    assert MISTAKES[name] in said
    assert len(said.strip().splitlines()) == 1
    if name == "fails.py:Fails":
        assert "fails.py, line 4: AttributeError" in said
    assert not (here / "nas.db").exists()


def test_what_fails_in_a_run_is_said_with_its_place(here, table, capsys):
    code = (here / "my_strategy.py").read_text()
    (here / "my_strategy.py").write_text(code.replace("known = seen", "raise KeyError('oh')\n        known = seen"))
    words = ["--space", "nasbench201", "--task", table, "--table.epochs", "12", "--strategy", "my_strategy.py:Greedy"]
    assert launch.main([*words, "--name", "it"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "my_strategy.py, line" in said
    assert "KeyError: 'oh'; " in said
    assert "nas search --resume it goes on with the run" in said


def test_a_predictor_of_ones_own_screens(here, table):
    (here / "mine.py").write_text("from predictors.linear import Linear\nclass Mine(Linear):\n    pass\n")
    words = ["--space", "nasbench201", "--task", table, "--table.epochs", "12", "--strategy", "random"]
    words += [
        "--trials",
        "12",
        "--prescreen",
        "mine.py:Mine",
        "--screening.initial",
        "4",
        "--screening.candidates",
        "20",
    ]
    assert launch.main([*words, "--name", "it"]) == 0
    assert isinstance(config.build_predictor("mine.py:Mine"), Linear)


@pytest.mark.slow
def test_the_code_of_a_file_travels_to_workers(here):
    """A worker that imports nothing of this folder has it all the same."""
    space = config.build_space(CHAIN)
    start_ray(1)
    try:
        pool = RayPool(Counting(space), 1)
        from nas.evaluators.base import Job

        pool.submit(Job(0, (1, 1), 0, 0))
        report = pool.wait()
        assert report.error is None
        assert report.evaluation is not None
        assert report.evaluation.metrics["error"] == float(space.cost(np.array([[1, 1]]))["params"][0])
        pool.close()
    finally:
        stop_ray()


@dataclasses.dataclass(frozen=True, eq=False)
class Counting:
    space: object

    def __call__(self, encoding, budget, seed):
        from nas.evaluators.base import Evaluation

        assert "my_space.py" in type(self.space).__module__ or type(self.space).__module__.startswith("nas_part_")
        return Evaluation({"error": float(self.space.cost(np.array([encoding]))["params"][0])})


@pytest.mark.slow
def test_the_command_lines_of_the_examples_run(here):
    line = [sys.executable, str(ROOT / "run_search.py"), "--trials", "2", "--final.steps", "3", "--training.steps", "3"]
    line += ["--workers", "1", "--max-images", "200"]
    for words in (
        ["--space", "my_space.py:Chain", "--evaluator", "train", "--strategy", "random"],
        ["--strategy", "my_strategy.py:Greedy"],
        ["--task", "my_task.py:load"],
    ):
        done = subprocess.run([*line, *words], cwd=here, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr

"""Parts of one's own: named by file, module or entry point, or given as values; refused in one line; run by no file."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Toy

import nas
from nas import cli, config, launch, registry
from nas.errors import UsageError
from nas.ray_pool import RayPool, start_ray, stop_ray
from nas.store import Store
from nas.tables import Column, Table, write_table
from predictors.linear import Linear
from spaces import presets
from spaces.base import every, fingerprint
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
    monkeypatch.setattr(registry, "_entry_points", lambda kind: {"fresh": Point()} if kind == "strategy" else {})
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
    with pytest.raises(UsageError, match="has other architectures than when mine began"):
        nas.search(resume="mine")


def test_another_file_of_the_same_name_is_not_taken_for_the_first(here):
    nas.search(space=CHAIN, **SHORT, name="mine")
    (here / "other").mkdir()
    shutil.copy("my_space.py", here / "other")
    assert nas.search(resume="mine", space="my_space.py:Chain").name == "mine"
    with pytest.raises(UsageError, match="space cannot be changed"):
        nas.search(resume="mine", space="other/my_space.py:Chain")


MISTAKES = {
    "none.py:X": "space='none.py:X': the file cannot be read",
    "broken.py:X": "broken.py, line 2: ZeroDivisionError: division by zero",
    "syntax.py:X": "syntax.py, line 1: SyntaxError",
    "my_space.py:Chian": "did you mean 'my_space.py:Chain'",
    "my_space.py:Network": "my_space.py:Network' must be a class or function that can be called without arguments",
    "no.such.module:X": "is not one of darts",
    "loose.py:Loose": "must be a frozen dataclass",
    "lawless.py:Lawless": "space='lawless.py:Lawless' breaks a law: canonical is idempotent; tried [",
    "fails.py:Fails": "breaks a law: cost works in a jitted function; tried [",
}
FILES = {
    "broken.py": "x = 1\ny = x / 0\n",
    "syntax.py": "def f(:\n",
    "loose.py": "class Loose:\n    pass\n",
    "lawless.py": "from my_space import *\nclass Lawless(Chain):\n    canonical = lambda self, e: 1 * (e == 0)\n",
    "fails.py": "from my_space import Chain\nclass Fails(Chain):\n    def cost(self, e):\n        return e.nothing\n",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(name, here, capsys):
    for path, code in FILES.items():
        (here / path).write_text(code)
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
    assert "KeyError: 'oh'; then go on with " in said
    assert "run_search.py --resume it" in said


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

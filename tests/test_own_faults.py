"""Parts of one's own that go wrong: nothing wrong is recorded, nothing goes on with other code, all is one line."""

import sys

import pytest

import nas
from nas import registry, shipped, testing
from nas.commands import cli
from nas.commands import search as launch
from nas.errors import RunError, UsageError
from nas.store.sql import Store
from spaces.base import costs, fingerprint
from spaces.callbacks import check
from spaces.costs import with_cost

pytestmark = pytest.mark.usefixtures("unchecked")  # what the user's own code gives may be of any type

PARTS = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from strategies.base import Proposals

@dataclasses.dataclass(frozen=True)
class Space:
    cardinalities: tuple[int, ...] = (3, 3)
    supernets = False
    def identity(self): return {"cardinalities": list(self.cardinalities)}
    def canonical(self, encodings): return encodings
    def describe(self, encoding): return "-".join(str(int(choice)) for choice in encoding)
    def parse(self, text):
        row = [int(word) for word in text.split("-")]
        if len(row) != 2 or not all(0 <= choice < 3 for choice in row):
            raise ValueError(f"{text!r} must be two choices of 0..2, such as 0-2")
        return np.array(row, np.int32)
    def cost(self, encodings): return {"macs": encodings.sum(1).astype(jnp.float32)}
    def supernet(self, key, *, affine=False): raise NotImplementedError
    def build(self, encoding, key): raise OSError("no network")

@dataclasses.dataclass(frozen=True)
class Ones:
    metrics = ("ones",)
    def prepare(self, space, task): return lambda encoding, budget, seed: {"ones": encoding.count(1)}

@dataclasses.dataclass(frozen=True)
class Proposer:
    generation = 1
    def init(self, space, limits=()): return jnp.zeros(())
    def ask(self, state, key, n, pending): return Proposals(self.rows(n), jnp.zeros(n, jnp.int32))
    def rows(self, n): return jnp.ones((n, 2), jnp.int32)
    def tell(self, state, observed): return state

def slow(space, encodings): return np.asarray(encodings).sum(1)

def load(): return np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 2
"""
GIVEN = {"space": "parts.py:Space", "evaluator": "parts.py:Ones", "task": "parts.py:load", "strategy": "random"}
GIVEN |= {"trials": 3, "workers": 0, "finalists": 0, "baselines": 0, "name": "it"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with parts that are right, where nothing of one's own is known yet."""
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    for known in ("_given", "_sources", "_values"):
        monkeypatch.setattr(registry, known, {})
    monkeypatch.setattr(shipped, "_beside", set())
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("helper", "between"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def fails(**given) -> str:
    """The one line of a job that ends with an error of ours."""
    with pytest.raises((UsageError, RunError)) as failed:
        nas.search(**{**GIVEN, **given})
    assert len(str(failed.value).splitlines()) == 1
    return str(failed.value)


def change(here, old: str, new: str) -> None:
    code = (here / "parts.py").read_text()
    assert old in code
    (here / "parts.py").write_text(code.replace(old, new))


ROWS = {
    "7 * jnp.ones((n, 2), jnp.int32)": "encoding=[7, 7], whose choices must be at least 0 and below [3, 3]",
    "-jnp.ones((n, 2), jnp.int32)": "encoding=[-1, -1], whose choices",
    "jnp.ones((n, 2))": "encodings of float32[1, 2], which must be int32[1, 2]",
    "jnp.ones((n, 3), jnp.int32)": "encodings of int32[1, 3], which must be int32[1, 2]",
    "np.full((n, 2), 2**40)": "encodings of int64[1, 2], which must be int32[1, 2]",
    "None": "encodings of NoneType[], which must be int32[1, 2]",
    "2 * jnp.ones((n, 2), jnp.int32)": "encoding=[2, 2] of macs=4, which must keep macs <= 3",
}


@pytest.mark.parametrize("rows", ROWS)
def test_what_is_no_architecture_or_too_dear_is_refused_before_it_is_recorded(rows, here):
    change(here, "return jnp.ones((n, 2), jnp.int32)", f"return {rows}")
    said = fails(strategy="parts.py:Proposer", max_macs=3.0)
    assert f"strategy='Proposer' proposes {ROWS[rows]}" in said
    with Store("sqlite:///nas.db") as store:
        assert not store.trials(store.run("it").id)


PROPOSALS = {
    "None": "proposes NoneType, not a strategies.base.Proposals",
    "Proposals(self.rows(n), -jnp.ones(n, jnp.int32))": "proposes budget=-1, which must be at least 0",
    "Proposals(self.rows(n), 0.5 * jnp.ones(n))": "proposes budgets of float32[1], which must be int32[1]",
    "Proposals(self.rows(n), jnp.ones(n, jnp.int32), 3)": "proposes drawn=int, not a strategies.base.Drawn",
}


@pytest.mark.parametrize("proposed", PROPOSALS)
def test_what_is_no_proposal_is_refused_before_it_is_recorded(proposed, here):
    change(here, "return Proposals(self.rows(n), jnp.zeros(n, jnp.int32))", f"return {proposed}")
    assert PROPOSALS[proposed] in fails(strategy="parts.py:Proposer")


def test_a_comparison_refuses_what_is_not_in_the_table(here, capsys):
    lines = ["architecture,mine_valid_error_e5", *(f"{i}-{j},0.{i}{j}" for i in range(3) for j in range(2))]
    (here / "mine.csv").write_text("\n".join(lines))
    assert cli.main(["table", "build", "mine.csv", "--space", "parts.py:Space", "--out", "mine.npz"]) == 0
    words = ["compare", "--space", "parts.py:Space", "--task", "table:mine.npz", "--seeds", "2", "--trials", "3"]
    words += ["--strategies", "parts.py:Proposer"]
    assert cli.main(words) == 0
    for rows, said in {
        "2 * jnp.ones((n, 2), jnp.int32)": "proposes encoding=[2, 2], which was not measured",
        "7 * jnp.ones((n, 2), jnp.int32)": "proposes what is no architecture of the space",
        "jnp.ones((n, 2))": "proposes encodings of float32[1, 2], which must be int32[1, 2]",
        "[][1]": "strategy='Proposer': other.py, line 32: IndexError",
    }.items():
        (here / "other.py").write_text(PARTS.replace("return jnp.ones((n, 2), jnp.int32)", f"return {rows}"))
        words[-1] = "other.py:Proposer"
        capsys.readouterr()
        assert cli.main(words) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert said in error


@pytest.mark.parametrize("kind", ["strategy", "evaluator", "cost"])
def test_a_run_is_not_gone_on_with_by_other_code(kind, here):
    name = {"strategy": "Proposer", "evaluator": "Ones", "cost": "slow"}[kind]
    (here / "other.py").write_text(PARTS)
    nas.search(**{**GIVEN, kind: f"other.py:{name}"})
    (here / "other.py").write_text("# a comment\n" + PARTS)
    assert nas.search(resume="it").name == "it"
    (here / "other.py").write_text(PARTS + "more = 1\n")
    with pytest.raises(UsageError, match=rf"{kind}='.*other.py:{name}' has other code than when it began"):
        nas.search(resume="it")


def test_a_final_training_that_fails_is_said_and_is_a_failed_run(here, capsys):
    words = [f"--{name}={value}" for name, value in {**GIVEN, "finalists": 1, "baselines": 1}.items()]
    assert launch.main(words) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert sum("failed: parts.py, line 20: OSError: no network" in line for line in said) == 2
    assert "what was found could not be trained: parts.py, line 20: OSError: no network" in said[-1]
    with Store("sqlite:///nas.db") as store:
        assert store.run("it").status == "failed"


ENDS = {
    "metrics = ": "raise SystemExit(0); metrics = ",
    'return {"cardinalities"': 'raise SystemExit(0); return {"cardinalities"',
    "return encodings": "raise GeneratorExit",
    'return {"macs"': 'raise SystemExit(0); return {"macs"',
    "def slow(space, encodings): ": "def slow(space, encodings): raise SystemExit(0)\ndef none(): ",
    "def load(): ": "def load(): raise SystemExit(0)\ndef none(): ",
    "return jnp.zeros(())": "raise SystemExit(0)",
    "return state": "raise SystemExit(0)",
    "def prepare(self, space, task): ": "def prepare(self, space, task): raise SystemExit(0)\n    def none(self): ",
    "return lambda encoding, budget, seed: ": "return lambda encoding, budget, seed: exit(0) or ",
}


@pytest.mark.parametrize("old", ENDS)
def test_no_code_of_ones_own_ends_a_job_in_silence(old, here, capsys):
    change(here, old, ENDS[old])
    given = {**GIVEN, "strategy": "parts.py:Proposer", "cost": "parts.py:slow"}
    assert launch.main([f"--{name}={value}" for name, value in given.items()]) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in said
    assert "parts.py, line" in said
    assert "SystemExit: 0" in said or "GeneratorExit" in said


def test_code_of_ones_own_that_fails_when_it_is_asked_is_one_line(here):
    change(here, "pending): return Proposals", "pending):\n        raise KeyError('no')\n        return Proposals")
    nas.search(**{**GIVEN, "strategy": "parts.py:Proposer", "ask_and_tell": True})
    with pytest.raises(RunError, match=r"^parts.py, line 32: KeyError: 'no'$"):
        nas.ask("it", 1)
    assert registry.told(ValueError("a\0b")) == r"ValueError: a\0b"


@pytest.mark.parametrize("error", ["RuntimeError", "ValueError"])
def test_a_strategy_that_cannot_begin_is_named(error, here):
    change(here, "return jnp.zeros(())", f"raise {error}('no')")
    said = fails(strategy="parts.py:Proposer")
    assert said == f"strategy='Proposer': parts.py, line 30: {error}: no"


def test_a_cost_that_fails_late_is_one_line_without_a_traceback(here, capsys):
    change(here, "np.asarray(encodings).sum(1)", "[1 / (3 - sum(row)) for row in np.asarray(encodings).tolist()]")
    change(here, "return jnp.ones((n, 2), jnp.int32)", "return jnp.asarray([[1, 2]] * n, jnp.int32)")
    space = registry.value("space", "parts.py:Space")
    priced = with_cost(space, registry.own("cost", "parts.py:slow"))
    assert costs(priced, (0, 1))["slow"] == 0.5
    with pytest.raises(ZeroDivisionError):
        costs(priced, (1, 2))
    check()  # what was raised is not raised again
    assert "Traceback" not in capsys.readouterr().err


NAMES = {
    "metrics = ('a', 'a')": "metrics: 'a' is there twice",
    "metrics = ('a' * 101,)": "must have at most 100 letters",
    "metrics = ('description',)": "metrics: 'description' is the name of something else already",
    "metrics = ('macs',)": "costs: 'macs' is the name of something else already",
}


@pytest.mark.parametrize("names", NAMES)
def test_the_names_of_metrics_are_their_own(names, here):
    change(here, 'metrics = ("ones",)', names)
    assert NAMES[names] in fails()


COSTS = {
    "def slow(space, encodings): return {'macs': encodings.sum(1)}": "cost 'macs' is one of the space already",
    "def slow(space, encodings): return {'ones': encodings.sum(1)}": "'ones' is the name of something else already",
    "def slow(space, encodings): return {'trial': encodings.sum(1)}": "'trial' is the name of something else already",
    "def slow(space, encodings): return {'a b': encodings.sum(1)}": "cost 'a b' must be called by a name",
    "slow = lambda space, encodings: encodings.sum(1)": "cost '<lambda>' must be called by a name",
}


@pytest.mark.parametrize("code", COSTS)
def test_the_names_of_costs_are_their_own(code, here):
    (here / "costs.py").write_text(code)
    assert COSTS[code] in fails(cost="costs.py:slow")


@pytest.mark.parametrize("value", ["'0.5'", "None", "[1]", "np.zeros(2)"])
def test_a_measurement_is_a_number(value, here):
    change(here, '{"ones": encoding.count(1)}', f'{{"ones": {value}}}')
    assert "which must be a number" in fails()
    change(here, f'{{"ones": {value}}}', '{"ones": jnp.float32(1)}')
    assert nas.search(**{**GIVEN, "name": "other"}).best


HELPED = """
from parts import *
from helper import WORTH
class Helped(Ones):
    def prepare(self, space, task): return lambda encoding, budget, seed: {"ones": WORTH * encoding.count(1)}
"""


@pytest.mark.parametrize("folder", [".", "deep"])
def test_a_run_is_not_gone_on_with_where_a_module_that_a_part_imports_has_changed(folder, here):
    (here / folder).mkdir(exist_ok=True)
    (here / folder / "helper.py").write_text("WORTH = 1\n")
    (here / folder / "helped.py").write_text(HELPED.replace("from parts import *", PARTS))
    nas.search(**{**GIVEN, "evaluator": f"{folder}/helped.py:Helped"})
    (here / folder / "helper.py").write_text("WORTH = 1  \n# by the way\n")
    assert nas.search(resume="it").name == "it"
    (here / folder / "helper.py").write_text("WORTH = 100\n")
    with pytest.raises(
        UsageError, match=r"evaluator='.*helped.py:Helped'.*'helper' beside it has other code than when"
    ):
        nas.search(resume="it")


@pytest.mark.parametrize("form", ["helper.py", "helper/__init__.py"])
@pytest.mark.parametrize("statement", ["import", "by way of another"])
def test_two_parts_whose_modules_have_one_name_are_refused_and_equal_ones_are_not(form, statement, here):
    for folder in ("a", "b", "same"):
        (here / folder / form).parent.mkdir(parents=True)
        (here / folder / form).write_text(f"WORTH = {int(folder == 'b')}\n")
        (here / folder / "between.py").write_text("from helper import WORTH\n")
        source = HELPED.replace("from parts import *", PARTS)
        source = source.replace("from helper", "from between") if statement != "import" else source
        (here / folder / "helped.py").write_text(source)
    registry.own("evaluator", "a/helped.py:Helped")
    registry.own("evaluator", "same/helped.py:Helped")
    with pytest.raises(UsageError, match=r"helped.py imports '(helper|between)', of which there is one beside it, and"):
        registry.own("evaluator", "b/helped.py:Helped")
    assert sys.modules["helper"].WORTH == 0


def test_a_module_beside_a_part_goes_before_one_beside_another_part(here):
    for folder in ("a", "b"):
        (here / folder).mkdir()
        (here / folder / "helper.py").write_text(f"WORTH = {int(folder == 'b')}\n")
    (here / "a" / "helped.py").write_text(PARTS)
    (here / "b" / "helped.py").write_text(HELPED.replace("from parts import *", PARTS))
    registry.own("evaluator", "a/helped.py:Ones")
    assert registry.own("evaluator", "b/helped.py:Helped")().prepare(None, None)((1,), 0, 0) == {"ones": 1}


FOR_NUMPY = {
    "a dictionary": "np.array([TABLE[row[0], row[1]] for row in encodings])",
    "a list": "np.array([VALUES[row[0]] + VALUES[row[1]] for row in encodings])",
    "a loop": "filled(np.zeros(len(encodings)), encodings)",
}


@pytest.mark.parametrize("kind", FOR_NUMPY)
def test_a_cost_that_is_written_for_numpy_is_one_in_a_search(kind, here):
    code = """
VALUES = [0.5, 1.5, 4.0]
TABLE = {(i, j): VALUES[i] + VALUES[j] for i in range(3) for j in range(3)}
def filled(found, encodings):
    for i, row in enumerate(encodings):
        found[i] = VALUES[row[0]] + VALUES[row[1]]
    return found
"""
    (here / "parts.py").write_text(f"{PARTS}{code}\ndef worth(space, encodings): return {FOR_NUMPY[kind]}\n")
    nas.search(**{**GIVEN, "cost": "parts.py:worth", "limit": "worth <= 4.6", "trials": 6})
    for trial in trials():
        first, second = (int(each) for each in trial.description.split("-"))
        assert trial.measurements["worth"] == [0.5, 1.5, 4.0][first] + [0.5, 1.5, 4.0][second] <= 4.6


def trials() -> list:
    with Store("sqlite:///nas.db") as store:
        return list(store.trials(store.run("it").id))


STRATEGIES = {
    "generation = 10**9": "generation=1000000000 must be an integer from 1 to 1000000",
    "def needs(self, number): return number + 1": "breaks a law: needs(number) is in 0..number",
    "def needs(self, number): return 'a'": "breaks a law: needs(number) is in 0..number",
    "def for_trials(self, trials): return None": "for_trials gives such a strategy; tried 20, found NoneType",
    "budgets = (1, 2)\n    eta = 2": "budgets must be a field of the class, which users can set",
    "budgets: tuple[int, ...] = (3, 1)\n    eta: int = 2": "'budgets' is the name of an ability, Budgeted, where it is",
}


@pytest.mark.parametrize("more", STRATEGIES)
def test_what_a_strategy_says_of_itself_is_checked(more, here):
    change(here, "generation = 1", f"generation = 1\n    {more}")
    assert STRATEGIES[more] in fails(strategy="parts.py:Proposer")


def test_a_part_that_is_no_predictor_does_not_screen(here):
    assert "prescreen='parts.py:Proposer' has no fit, which" in fails(prescreen="parts.py:Proposer")
    assert not (here / "nas.db").exists()


def test_what_float32_does_not_hold_is_no_measurement(here):
    change(here, "encoding.count(1)", "1e308 if encoding[0] else 1.0")
    nas.search(**{**GIVEN, "trials": 8})
    with_large = [trial for trial in trials() if not trial.description.startswith("0")]
    assert with_large
    for trial in with_large:
        assert "the evaluator gives ones=1e+308, which float32 does not hold" in trial.error


def test_images_of_several_shapes_are_refused_in_one_line(here, capsys):
    change(here, "return np.zeros((40, 8, 8, 1), np.uint8), ", "return [np.zeros((8 + i % 2, 8)) for i in range(40)], ")
    assert "the images and the labels of train must be an array each" in fails()
    assert cli.main(["data", "check", "parts.py:load"]) == 2
    assert "all images of one shape" in capsys.readouterr().err


@pytest.mark.parametrize("names", ['"ab"', '["a", "b" * 300]'])
def test_names_of_classes_are_several_and_short(names, here):
    change(here, "def load(): return ", "def load(): return load2(")
    code = f"def load2(images, labels): return {{'train': (images, labels), 'classes': {names}}}"
    change(here, "np.arange(40) % 2", f"np.arange(40) % 2)\n{code}")
    assert "must be names, each of at most 255 letters" in fails()


def test_a_mistake_in_a_task_is_told_with_its_place(here):
    change(here, "def load(): return np.zeros", "def load(): return 1 / 0, np.zeros")
    load = registry.own("task", "parts.py:load")
    with pytest.raises(testing.Broken, match=r"parts.py, line \d+: ZeroDivisionError"):
        testing.check_task(load)


def test_a_misspelt_field_is_named_once(here):
    assert fails(spcae=1).startswith("field spcae is not known; did you mean 'space'?")


def test_a_key_called_kind_does_not_make_two_classes_one(here):
    change(here, 'return {"cardinalities": list(self.cardinalities)}', 'return {"kind": "chain"}')
    (here / "others.py").write_text((here / "parts.py").read_text() + "more = 1\n")
    one, other = (registry.value("space", f"{name}.py:Space") for name in ("parts", "others"))
    assert one.identity() == other.identity()
    assert fingerprint(one) != fingerprint(other)


def test_advice_after_a_mistake_of_ones_own_can_be_followed(here):
    change(here, "encoding.count(1)", "[][1]")
    said = fails()
    assert "goes on with the run, and with the code that it began with: what is mended needs a new one" in said
    change(here, "return jnp.ones((n, 2), jnp.int32)", "return (")
    assert said_of_syntax(here) == "space='parts.py:Space': parts.py, line 32: SyntaxError: '(' was never closed"
    (here / "other.py").write_text(PARTS)
    with pytest.raises(UsageError, match=r"must be other.py:CLASS, one of other.py:Space"):
        registry.own("space", "other.py:")


def said_of_syntax(here) -> str:
    with pytest.raises(UsageError) as refused:
        registry.own("space", "parts.py:Space")
    return str(refused.value)

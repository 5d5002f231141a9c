"""Evaluators by name: values with fields of their own, which say what they measure and prepare what scores."""

import contextlib
import dataclasses
import sqlite3

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nas
from nas.commands import cli
from nas.commands import search as launch
from nas.config import from_values
from nas.errors import UsageError
from nas.evaluators import EVALUATORS, evaluator_class
from nas.evaluators.base import Context, Scoring
from nas.evaluators.own import scoring
from nas.job import run as job
from nas.report.outcome import told
from nas.report.progress import Bar, Silent
from nas.saved import predictor_jobs
from nas.saved.predictors import fit
from nas.store.sql import Store
from nas.training.recipe import Recipe
from predictors.gaussian_process import GaussianProcess
from spaces.nasnet import NasNet
from spaces.shufflenet import PRESETS

STORE = "sqlite:///nas.db"


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluator_is_a_value_that_knows_its_name_and_what_it_measures(name):
    value = evaluator_class(name)()
    assert isinstance(value, Scoring)
    assert (value.name, hash(value)) == (name, hash(evaluator_class(name)()))
    assert all(isinstance(metric, str) for metric in value.metrics("rmse"))
    assert name in ("zero-cost", "predicted") or value.metrics("rmse") == ("rmse",)


@pytest.mark.parametrize("name", EVALUATORS)
def test_only_what_needs_no_supernet_scores_a_space_that_has_none(name):
    context = Context(NasNet(), None, "error", Recipe(), Recipe(), lambda affine: {}, lambda name: (None, ""))
    if name in ("supernet", "zero-cost"):
        with pytest.raises(UsageError, match=f"evaluator='{name}' needs a space with shared weights"):
            evaluator_class(name)().check(context)
    elif name == "train":
        evaluator_class(name)().check(context)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A predictor of the multiply-adds, in the store of the folder."""
    monkeypatch.chdir(tmp_path)
    space = PRESETS["tiny"]
    rows = np.random.default_rng(0).integers(0, 4, (60, 9)).astype(np.int32)
    targets = np.asarray(space.cost(jnp.asarray(rows))["macs"]) / 1e6
    data = {"name": "shufflenet", "widths": [32, 64, 128]}
    fitted = fit("gp", GaussianProcess(), data, rows, targets, task="digits", objective="error", unit="share")
    with Store(STORE, create=True) as store:
        predictor_jobs.save(store, "light", fitted)
    return fitted


def test_a_search_by_a_saved_predictor_finds_what_it_expects_to_be_best(saved, capsys):
    outcome = nas.search(
        evaluator={"name": "predicted", "predictor": "light"}, trials=60, finalists=0, store=STORE, name="it", seed=1
    )
    assert outcome.objective == "predicted"
    rows = outcome.top(limit=60)
    macs = [row["macs"] for row in rows]
    assert [row["predicted"] for row in rows] == sorted(row["predicted"] for row in rows)
    assert np.mean(macs[:10]) < np.mean(macs[-10:])
    mean, _ = saved.predict(saved.space, np.array([rows[0]["encoding"]]))
    assert rows[0]["predicted"] == pytest.approx(float(mean[0]))
    assert cli.main(["top", "it", "--limit", "1"]) == 0
    assert rows[0]["architecture"] in capsys.readouterr().out
    assert launch.main(["--resume", "it"]) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--evaluator", "predicted"], "evaluator.predictor='' must be the name of a saved predictor"),
        (["--evaluator", "predicted", "--evaluator.predictor", "lihgt"], "did you mean 'light'"),
        (["--evaluator", "predicted", "--evaluator.predictor", "light", "--space", "shufflenet:small"], "of space"),
        (["--evaluator.affine", "maybe"], "affine"),
        (["--evaluator.calibration-images", "0"], "evaluator.calibration_images=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_stored(saved, flags, said, capsys):
    assert launch.main(flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1
    with Store(STORE) as store:
        assert store.runs() == []


def test_a_run_goes_on_with_the_predictor_that_it_began_with_and_no_other(saved):
    class Interrupt(Silent):
        def show(self, stage, done, total, remark):
            if done == 20:
                raise KeyboardInterrupt

    given = {"evaluator": {"name": "predicted", "predictor": "lig"}, "trials": 40, "finalists": 0, "store": STORE}
    with pytest.raises(KeyboardInterrupt):
        job.search({**given, "name": "it"}, reporter=Interrupt())
    other = dataclasses.replace(
        saved, params=jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, saved.params)
    )
    with Store(STORE) as store:
        predictor_jobs.save(store, "lights", other)  # another one that begins as was typed
    assert len(nas.search(resume="it", store=STORE).top(limit=50)) == 40
    with contextlib.closing(sqlite3.connect(STORE.removeprefix("sqlite:///"))) as database, database:
        database.execute("update predictor set name = case name when 'light' then 'old' else 'light' end")
    with pytest.raises(UsageError, match="the predictor by which it scores is another now"):
        nas.search(resume="it", store=STORE)


@pytest.mark.parametrize("name", ["train", "zero-cost"])
def test_a_gradient_strategy_scores_by_its_own_network(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"evaluator='{name}' cannot be set: a gradient strategy"):
        nas.search(strategy="gumbel-darts", space="nasbench201:tiny", evaluator=name)
    assert not list(tmp_path.iterdir())


def test_an_own_evaluator_is_called_by_its_name():
    class Probe:
        metrics = ("speed",)

        def prepare(self, space, task):
            raise NotImplementedError

    assert scoring(Probe()).name == "Probe"
    assert scoring(Probe()).metrics("error") == ("speed",)


@dataclasses.dataclass(frozen=True)
class Sharp:
    metrics = ("minus_sharpness",)

    def prepare(self, space, task):
        return lambda encoding, budget, seed: {"minus_sharpness": -float(sum(encoding))}


def test_what_more_is_better_of_is_named_in_either_spelling_and_told_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"evaluator": Sharp(), "strategy": "random", "trials": 5, "finalists": 0, "workers": 0, "store": STORE}
    found = {}
    for name in ("sharpness", "minus_sharpness"):
        with Bar() as bar:
            data = from_values({**given, "name": f"by-{name}", "objectives": f"{name},macs"})
            found[name] = job.search(data, reporter=bar)
    outcome = found["sharpness"]
    ranks = [[(row["trial"], row["sharpness"]) for row in each.best] for each in found.values()]
    assert ranks[0] == ranks[1]
    assert (outcome.objective, outcome.objectives, outcome.most) == ("sharpness", "sharpness,macs", True)
    best = max(sum(row["encoding"]) for row in outcome.best)
    assert outcome.best[0]["sharpness"] == best
    text = told(outcome)
    assert "by sharpness (most is best)" in text
    assert "pareto by-sharpness --objectives sharpness,macs" in text
    assert "lay on its way" not in text
    said = capsys.readouterr().err
    assert f"best sharpness {best:.4g}" in said
    assert "minus" not in text + said.replace("by-minus_sharpness", "")
    with pytest.raises(UsageError, match=r"objectives=.* must be different names"):
        nas.search(**given, objectives="sharpness,minus_sharpness")
    with pytest.raises(UsageError, match="did you mean 'sharpness'"):
        nas.search(**given, objectives="sharpnes")

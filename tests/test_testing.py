"""Our own parts, and the examples, keep the laws of `nas.testing`; what breaks them is in `test_laws_of_*.py`."""

import importlib.util
import sys
from pathlib import Path
from typing import Protocol

import pytest
from conftest import small_strategy

from nas import testing
from nas.testing.laws import names
from predictors import PREDICTORS, predictor_class
from predictors import base as predictors_base
from predictors.base import Predictor
from predictors.linear import Linear
from spaces import SPACES, abilities, presets
from spaces.base import Space
from strategies import STRATEGIES
from strategies import base as strategies_base
from strategies.base import GradientStrategy, Strategy

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SPACES)
def test_our_spaces_keep_the_laws(name):
    space = next(iter(presets(name).values()))
    testing.check_space(space, networks=False)


@pytest.mark.parametrize("name", ["random", "regularized-evolution", "local-search"])
def test_our_strategies_keep_the_laws(name):
    assert name in STRATEGIES
    testing.check_strategy(small_strategy(name), trials=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_all_our_strategies_keep_the_laws(name):
    testing.check_strategy(small_strategy(name), trials=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PREDICTORS if name != "boosted-trees"])
def test_our_predictors_keep_the_laws(name):
    testing.check_predictor(predictor_class(name)())


def test_the_examples_keep_the_laws():
    testing.check_space(example("my_space").Chain())
    testing.check_strategy(example("my_strategy").Greedy(initial=2), trials=8)
    testing.check_task(example("my_task").load)
    testing.check_predictor(Linear())


def test_the_names_of_abilities_are_those_of_all_protocols_and_are_documented():
    """A part may not use them for anything else."""
    modules = {
        abilities: names.SPACE,
        strategies_base: names.STRATEGY + names.GRADIENT_STRATEGY,
        predictors_base: names.PREDICTOR,
    }
    for module, known in modules.items():
        protocols = {each for each in vars(module).values() if getattr(each, "_is_protocol", False)}
        assert protocols - {Protocol, Space, Strategy, GradientStrategy, Predictor} == set(known)
    kinds = {
        "spaces": names.SPACE,
        "strategies": names.STRATEGY,
        "gradient strategies": names.GRADIENT_STRATEGY,
        "predictors": names.PREDICTOR,
    }
    lines = [
        f"- {kind}: " + "; ".join(" with ".join(f"`{name}`" for name in names.members(each)) for each in known)
        for kind, known in kinds.items()
    ]
    said = (EXAMPLES.parent / "docs" / "own-parts.md").read_text()
    assert " ".join("\n".join(lines).split()) in " ".join(said.split())

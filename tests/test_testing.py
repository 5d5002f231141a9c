"""`nas.testing` passes what keeps the laws and says of anything else which law it breaks; our own parts pass it."""

import dataclasses
import importlib.util
import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import Toy, small_strategy

from nas import testing
from predictors import PREDICTORS, predictor_class
from predictors.linear import Linear
from spaces import SPACES, presets
from spaces.nasbench201 import NasBench201
from strategies import STRATEGIES
from strategies.random_search import RandomSearch

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


@dataclasses.dataclass(frozen=True)
class Wandering(Toy):
    def canonical(self, encodings):
        return (encodings + 1) % jnp.asarray(self.cardinalities)[None]


@dataclasses.dataclass(frozen=True)
class Forgetful(Toy):
    def parse(self, text):
        return super().parse(text) * 0


@dataclasses.dataclass(frozen=True)
class Gullible(Toy):
    def parse(self, text):
        return np.zeros(6, np.int32) if not text else super().parse(text)


@dataclasses.dataclass(frozen=True)
class Dearer(Toy):
    def cost(self, encodings):
        return {"macs": jnp.where(encodings[:, 0] == 0, encodings[:, 1], -encodings[:, 1]).astype(jnp.float32) * -1}


@dataclasses.dataclass(frozen=True)
class Mixed(NasBench201):
    cells: int = 1


@dataclasses.dataclass(frozen=True)
class Backwards(Mixed):
    def derive(self, mixture):
        return mixture.argmin(1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Proud(Mixed):
    """Takes an operation only where it has most of the weight."""

    def derive(self, mixture):
        return jnp.where(mixture.max(1) > 0.9 * mixture.sum(1), mixture.argmax(1), 0).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Cheap(Mixed):
    def mixing(self):
        mixing = super().mixing()
        return mixing._replace(costs={name: (fixed, 2 * table) for name, (fixed, table) in mixing.costs.items()})


@dataclasses.dataclass(frozen=True)
class Lost(Mixed):
    def mixing(self):
        return 1 / 0


BROKEN_SPACES = {
    Backwards: "an architecture is derived from its own operations; tried [",
    Proud: "only the order of the weights decides what is derived",
    Cheap: "add up to the costs of architectures; tried [",
    Lost: "mixing() says how a mixture is laid out; tried ",
    Wandering: "canonical is idempotent; tried [",
    Forgetful: "parse reads back what describe writes; tried ",
    Gullible: "parse raises ValueError for what is no architecture; tried ''",
    Dearer: "the canonical row is no dearer in 'macs'",
}


@dataclasses.dataclass(frozen=True)
class Blind(RandomSearch):
    """Does not look at limits."""

    def init(self, space, limits=()):
        return super().init(space)


@dataclasses.dataclass(frozen=True)
class Stubborn(RandomSearch):
    def tell(self, state, observed):
        return dataclasses.replace(super().tell(state, observed), count=state.count + 1)


@dataclasses.dataclass(frozen=True)
class Wild(RandomSearch):
    def ask(self, state, key, n, pending):
        proposed = super().ask(state, key, n, pending)
        return dataclasses.replace(proposed, encodings=proposed.encodings + 3)


BROKEN_STRATEGIES = {
    Blind: "proposals keep the limit sum <= ",
    Stubborn: "two tells are one tell of both",
    Wild: "proposals are choices of the space; tried [",
}


@pytest.mark.parametrize("part", BROKEN_SPACES | BROKEN_STRATEGIES, ids=lambda part: part.__name__)
def test_what_breaks_a_law_is_told_which(part):
    of_spaces = testing.check_space, {"networks": False}
    check, how = of_spaces if part in BROKEN_SPACES else (testing.check_strategy, {"trials": 4})
    with pytest.raises(testing.Broken) as broken:
        check(part(), **how)
    assert (BROKEN_SPACES | BROKEN_STRATEGIES)[part] in str(broken.value)
    assert len(str(broken.value).splitlines()) == 1


def test_data_that_cannot_be_searched_on_are_refused():
    with pytest.raises(testing.Broken, match="allowed: images and labels, or a mapping"):
        testing.check_task(lambda: 3)
    with pytest.raises(testing.Broken, match="the same data each time"):
        testing.check_task(lambda: (np.random.default_rng().integers(0, 255, (40, 8, 8)), np.arange(40) % 2))


@dataclasses.dataclass(frozen=True)
class Counting(RandomSearch):
    """Keeps Python's integers."""

    def init(self, space, limits=()):
        return {"count": 0}


@dataclasses.dataclass(frozen=True)
class Idle(RandomSearch):
    def ask(self, state, key, n, pending):
        return None


class Raising:
    def __init__(self, error):
        self.error = error

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        raise self.error

    def __set__(self, instance, value):
        """A frozen dataclass sets it all the same."""


def toy(**kept):
    """A toy whose class has these instead."""
    return dataclasses.dataclass(frozen=True, eq="__eq__" not in kept)(type("Odd", (Toy,), kept))()


def counted(*texts):
    """A function that gives another text each time."""
    left = list(texts) * 10**4
    return lambda *given: left.pop()


ODD = {
    "a class": (lambda: Toy, "it is a value, and no class"),
    "an array as cost": (lambda: toy(cost=lambda self, rows: rows.sum(1)), "cost gives numbers by name"),
    "a list as cost": (lambda: toy(cost=lambda self, rows: [1.0]), "cost gives numbers by name"),
    "no cardinalities": (lambda: toy(cardinalities=Raising(KeyError("x"))), "found KeyError"),
    "too many choices": (lambda: Toy((10**12, 2)), "cardinalities is a tuple of integers in 1..2147483647"),
    "mixed keys": (lambda: toy(identity=lambda self: {1: 1, "a": 2}), "identity() is plain data"),
    "another identity": (lambda: toy(identity=lambda self: {"number": next(NUMBERS)}), "is the same each"),
    "another name": (lambda: toy(describe=counted("0-0-0-0-0-0", "1-0-0-0-0-0")), "describe writes the same each time"),
    "no comparison": (lambda: toy(__eq__=lambda *_: 1 / 0, __hash__=lambda _: 1), "values can be compared"),
    "the end": (lambda: toy(cost=lambda *_: sys.exit(0)), "SystemExit: 0"),
    "what is out of range": (lambda: toy(parse=lambda _, text: parsed(text)), "parse refuses choices out of range"),
    "no supernet": (lambda: toy(build=lambda *_: Mixed().build(np.zeros(6, np.int32), jr.key(0))), "supernet gives a"),
    "no network": (lambda: toy(build=lambda *_: 3), "build gives a flax.nnx.Module"),
}
NUMBERS = itertools.count()


def parsed(text):
    row = np.array([int(word) for word in text.split("-")], np.int32)
    if len(row) != 6:
        raise ValueError(text)
    return row


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("odd", ODD)
def test_whatever_is_odd_about_a_space_is_a_law_that_it_breaks(odd):
    make, said = ODD[odd]
    with pytest.raises(testing.Broken) as broken:
        testing.check_space(make(), samples=16)
    assert said in str(broken.value)
    assert len(str(broken.value).splitlines()) == 1


@pytest.mark.usefixtures("unchecked")
def test_whatever_is_odd_about_a_strategy_is_a_law_that_it_breaks():
    moody = type("Moody", (RandomSearch,), {"generation": Raising(KeyError("x"))})
    for part, said in {
        Counting(): "the state is a pytree of arrays",
        Idle(): "proposes NoneType, not a strategies.base.Proposals",
        dataclasses.dataclass(frozen=True)(moody)(): "it has 'generation'",
        RandomSearch: "it is a value, and no class",
    }.items():
        with pytest.raises(testing.Broken) as broken:
            testing.check_strategy(part, trials=2)
        assert said in str(broken.value)

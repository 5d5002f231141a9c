"""Each law of strategies is broken by one that keeps all others before it, and `nas.testing` says which."""

import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from nas import testing
from nas.testing.laws.gradient import RANGES
from nas.testing.laws.names import GRADIENT_STRATEGY, STRATEGY, members
from nas.testing.laws.numbers import Numbers
from predictors.linear import Linear
from strategies import GRADIENT_STRATEGIES, strategy_class
from strategies.base import GradientStrategy, Proposals
from strategies.differentiable import Differentiable
from strategies.reducing import Reducing

SPACE = Numbers((2, 2, 3))


@dataclasses.dataclass(frozen=True)
class Plain:
    """Random rows; where one is over the limit, that of zeros."""

    generation: ClassVar[int] = 1

    def init(self, space, limits=()):
        nobody = jnp.full(len(space.cardinalities), -1, jnp.int32)
        most = jnp.float32(dict(limits).get("sum", jnp.inf))
        return {"count": jnp.int32(0), "most": most, "best": nobody, "score": jnp.float32(jnp.inf)}

    def ask(self, state, key, n, pending):
        rows = jr.randint(key, (n, 3), 0, jnp.array([2, 2, 3])[None])
        return Proposals(jnp.where((rows.sum(1) <= state["most"])[:, None], rows, 0), jnp.zeros(n, jnp.int32))

    def tell(self, state, observed):
        scores = jnp.nan_to_num(observed.objectives[:, 0], nan=jnp.inf)
        best, low = observed.encodings[scores.argmin()], scores.min()
        better = low < state["score"]
        told = {"best": jnp.where(better, best, state["best"]), "score": jnp.where(better, low, state["score"])}
        return {**state, **told, "count": state["count"] + len(scores)}


def plain(**kept):
    return dataclasses.dataclass(frozen=True)(type("Odd", (Plain,), kept))()


def proposing(change):
    """A strategy whose proposals are changed by what is given to `ask`."""

    def ask(self, state, key, n, pending):
        found = Plain.ask(self, state, key, n, pending)
        return dataclasses.replace(found, **change(found, state, key, n, pending))

    return plain(ask=ask)


def telling(change):
    """A strategy whose state is changed by what is told, from what it was."""
    return plain(tell=lambda self, state, seen: change(Plain.tell(self, state, seen), state, seen))


TRACES = itertools.count()


def from_elsewhere(found, *given):
    """As if drawn by NumPy, but surely another number each time."""
    return {"encodings": 0 * found.encodings + next(TRACES) % 2}


def for_one_slot(self, state, key, n, pending):
    assert len(pending.encodings) == n
    return Plain.ask(self, state, key, n, pending)


def by_slots(found, state, key, n, pending):
    return {"encodings": 0 * found.encodings + (len(pending.encodings) > n)}


def when_busy(found, state, key, n, pending):
    return {"encodings": jnp.where((pending.encodings >= 0).any(), 7, found.encodings)}


def the_best(found, state, *given):
    return {"encodings": jnp.where(state["best"] >= 0, state["best"], found.encodings[0])[None]}


def refusing(state, before, seen):
    assert len(seen.encodings) != 3
    return state


def budgets(which):
    return proposing(lambda found, *_: {"budgets": found.budgets + which})


LAWS = {
    "a class": (Plain, "it is a value, and no class"),
    "generation of 0": (plain(generation=0), "generation is an integer of at least 1"),
    "moody": (plain(generation=property(lambda _: 1 / 0)), "it must have 'generation'"),
    "no ask": (dataclasses.dataclass(frozen=True)(type("Odd", (), {"init": 1}))(), "it must have 'ask'"),
    "no init": (plain(init=lambda *_: 1 / 0), "init gives a state"),
    "Python's integers": (plain(init=lambda *_: {"count": 0}), "the state is a pytree of arrays"),
    "nothing": (plain(ask=lambda *_: None), "proposes NoneType, not a strategies.base.Proposals"),
    "by NumPy": (proposing(lambda found, *_: {"encodings": np.array(found.encodings)}), "ask works in a jitted"),
    "floats": (proposing(lambda found, *_: {"encodings": found.encodings * 1.0}), "ask gives n rows and budgets of"),
    "strange choices": (proposing(lambda found, *_: {"encodings": found.encodings + 3}), "are choices of the space"),
    "negative budgets": (budgets(-1), "budgets are at least 0"),
    "blind": (plain(init=lambda self, space, limits=(): Plain.init(self, space)), "proposals keep the limit sum <= "),
    "one slot": (plain(ask=for_one_slot), "trial 0 with limits (), n=1 and pending of 8 slots, found Assert"),
    "busy": (proposing(when_busy), "proposals are choices of the space; tried [7, 7, 7]"),
    "drawn elsewhere": (proposing(from_elsewhere), "ask draws from its key alone, whatever slots are empty"),
    "by slots": (proposing(by_slots), "ask draws from its key alone, whatever slots are empty"),
    "no tell": (plain(tell=lambda *_: 1 / 0), "tell works in a jitted function"),
    "another state": (telling(lambda state, *_: {"count": state["count"]}), "tell keeps the structure of the state"),
    "a state of floats": (telling(lambda state, *_: state | {"count": 0.5}), "tell keeps the structure of the state"),
    "stubborn": (
        telling(lambda state, before, _: state | {"count": before["count"] + 1}),
        "two tells are one tell of both",
    ),
    "refuses": (telling(refusing), "tell takes what was never asked"),
    "the best of all": (proposing(the_best), "proposals keep the limit sum <= "),
    "no number of trials": (plain(for_trials=lambda *_: 1 / 0), "for_trials takes a number of trials"),
    "no strategy": (plain(for_trials=lambda *_: None), "for_trials gives such a strategy"),
    "odd generations": (plain(for_trials=lambda *_: plain(generation=0.5)), "for_trials gives such a strategy"),
    "no needs": (plain(needs=lambda *_: 1 / 0), "needs takes the number of a trial"),
    "needs itself": (plain(needs=lambda _, number: number + 1), "needs(number) is in 0..number"),
    "needs less": (plain(needs=lambda _, number: number - 1), "needs(number) is in 0..number"),
    "half a need": (plain(needs=lambda _, number: number / 2), "needs(number) is in 0..number"),
}


def broken(strategy, space=SPACE) -> str:
    with pytest.raises(testing.Broken) as found:
        testing.check_strategy(strategy, space, trials=3)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", LAWS)
def test_a_broken_law_of_strategies_is_told(name):
    strategy, said = LAWS[name]
    assert said in broken(strategy)


def test_budgets_are_those_that_the_strategy_names():
    named = {"budgets": (1, 3), "eta": 2}
    assert "budgets are some of (1, 3)" in broken(plain(**named))

    def ask(self, *given):
        return dataclasses.replace(Plain.ask(self, *given), budgets=jnp.full(given[2], 3, jnp.int32))

    testing.check_strategy(plain(**named, ask=ask), SPACE, trials=3)


def test_a_plain_strategy_keeps_the_laws():
    testing.check_strategy(Plain(), SPACE, trials=3)
    able = {"for_trials": lambda self, _: self, "needs": lambda _, number: number, "budget": 0, "seeds_at_once": 1}
    testing.check_strategy(plain(**able, generation=2), SPACE, trials=4)


VALUES = {"budgets": (1, 3), "budget": 5, "eta": 3, "seeds_at_once": 1, "predictor": Linear()}


@pytest.mark.parametrize("ability", STRATEGY, ids=lambda ability: ability.__name__)
def test_what_has_the_name_of_an_ability_of_strategies_by_chance_is_told(ability):
    right = {name: VALUES.get(name, lambda *_: None) for name in members(ability)}
    for name in members(ability):
        strategy = plain(**(right | {name: "32"}))
        assert broken(strategy).startswith(f"field {name!r} is the name of an ability, ")


@pytest.mark.parametrize("name", GRADIENT_STRATEGIES)
def test_our_gradient_strategies_keep_the_laws(name):
    testing.check_strategy(strategy_class(name)())


def darts(base=Differentiable, **kept):
    return dataclasses.dataclass(frozen=True)(type("Odd", (base,), kept))()


def weighing(change, name="weights"):
    """Of a mixture or weights these instead."""
    return darts(**{name: lambda self, *given: change(getattr(Differentiable, name)(self, *given))})


def drawn_in_numpy(found):
    return found * (1 + np.random.rand())  # noqa: NPY002  # the fault that is tried


def reacting(change):
    return darts(Reducing, after_epoch=lambda self, *given: change(Reducing.after_epoch(self, *given)))


def scaled(logits, by):
    return dataclasses.replace(logits, ops=logits.ops * by)


def startled(self, key, mixing):
    return scaled(Differentiable.init(self, key, mixing), 1 + np.random.rand())  # noqa: NPY002  # the fault


GRADIENTS = {
    "no logits": (darts(init=lambda *_: 1 / 0), "init gives logits"),
    "Python's numbers": (darts(init=lambda *_: {"ops": 0.5}), "logits are a pytree of arrays"),
    "other logits": (darts(init=startled), "init draws from its key alone"),
    "no weights": (darts(weights=lambda *_: 1 / 0), "weights works in a jitted function"),
    "flat weights": (weighing(lambda found: found.sum(1)), "weights is [edges, ops]"),
    "infinite weights": (weighing(lambda found: found / 0), "weights is finite"),
    "negative weights": (weighing(lambda found: -found), "weights is not negative"),
    "negative tracked": (weighing(lambda found: -found, "tracked"), "tracked is not negative"),
    "no mixture": (darts(mixture=lambda *_: 1 / 0), "mixture works in a jitted function"),
    "negative mixture": (weighing(lambda found: -found, "mixture"), "mixture is not negative"),
    "another mixture": (weighing(drawn_in_numpy, "mixture"), "mixture draws from its key alone"),
    "no paths": (darts(along_paths=True), "mixtures are one-hot where along_paths is True"),
    "constant": (weighing(jax.lax.stop_gradient, "mixture"), "the mixture of each edge has a gradient"),
    "one edge": (
        weighing(lambda found: found.at[0].set(jax.lax.stop_gradient(found[0])), "mixture"),
        "the mixture of each edge has a gradient by the logits; tried 0",
    ),
    "steep": (darts(penalty=lambda _, logits, *__: jnp.sqrt(0 * logits.ops.sum())), "the gradient of penalty is fin"),
    "many penalties": (darts(penalty=lambda _, logits, *__: logits.ops), "penalty has a gradient by the logits"),
    "no optimiser": (darts(optimiser=lambda _: 1 / 0), "optimiser() gives an optax.GradientTransformation"),
    "None": (darts(optimiser=lambda _: None), "it can be called as its protocol says; found AttributeError"),
    "no beginning": (
        darts(optimiser=lambda _: optax.GradientTransformation(lambda _: 1 / 0, lambda *_: None)),
        "the optimiser begins with logits",
    ),
    "no step": (
        darts(optimiser=lambda _: optax.GradientTransformation(lambda _: (), lambda *_: 1 / 0)),
        "the optimiser takes their gradient",
    ),
    "complex logits": (
        darts(optimiser=lambda _: optax.stateless(lambda updates, _: jax.tree.map(lambda x: x * 1j, updates))),
        "the optimiser keeps the structure of the logits",
    ),
    "no reaction": (reacting(lambda _: 1 / 0), "after_epoch gives the logits of the next epoch"),
    "other logits after": (reacting(lambda found: found.ops), "after_epoch keeps the structure of the logits"),
    "a random reaction": (
        reacting(lambda found: scaled(found, 1 + np.random.rand())),  # noqa: NPY002  # the fault that is tried
        "after_epoch draws from its key alone",
    ),
    "no mixtures": (darts(Reducing, after_epoch=3), "field 'after_epoch' is the name of an ability, Reacts"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", GRADIENTS)
def test_a_broken_law_of_gradient_strategies_is_told(name):
    strategy, said = GRADIENTS[name]
    assert said in broken(strategy, None)


def test_what_a_gradient_strategy_lacks_is_told():
    lacking = dataclasses.dataclass(frozen=True)(type("Odd", (), {"mixture": Differentiable.mixture}))
    assert broken(lacking()).startswith("it must have 'order'")
    assert "searches mixtures: a Mixable" in broken(Differentiable())


@pytest.mark.parametrize("name", RANGES)
def test_a_field_of_a_gradient_strategy_that_means_something_else_is_told(name):
    right = {each: getattr(Differentiable, each) for each in members(GradientStrategy)} | {"along_paths": False}
    for wrong in (-0.5, "odd"):
        strategy = dataclasses.dataclass(frozen=True)(type("Odd", (), right | {name: wrong}))()
        assert broken(strategy, None).startswith(f"{name} is ")


def test_the_abilities_of_gradient_strategies_are_methods():
    assert [members(ability) for ability in GRADIENT_STRATEGY] == [{"after_epoch": True}]

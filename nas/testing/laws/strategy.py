"""The laws of strategies that propose architectures: see `strategies.base.Strategy`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.engine.proposals import are_choices, check_form
from nas.testing.laws import gradient
from nas.testing.laws.base import alike, anew, calls, first, foreseen, frozen, has, law, shapes
from nas.testing.laws.names import STRATEGY, check_names
from nas.testing.laws.numbers import Numbers, score
from spaces.base import Encodings, Limits, Space, feasible, sample
from strategies.base import GradientStrategy, Observations, Proposals, Sized, Waiting, budgets_of
from strategies.region import region

NUMBERS = (*range(64), 1000)  # of trials, of which it is asked what they need
SPARE = 7  # empty slots of `pending`, besides those for a generation
LOWEST = -1e3  # an objective lower than those of all trials


@foreseen()
def check_strategy(strategy: Any, space: Space | None = None, *, trials: int = 40, seed: int = 0) -> None:
    """The laws of a strategy that proposes architectures: see `strategies.base.Strategy`; or of one that learns by
    gradients, of which `space` is then `spaces.abilities.Mixable`: see `strategies.base.GradientStrategy`.

    Raises Broken.
    """
    check_fields_of_strategy(strategy)
    if isinstance(strategy, GradientStrategy):
        return gradient.check(strategy, space, seed)
    space = Numbers() if space is None else space
    for limits in ((), _half(space)):
        for n in sorted({1, strategy.generation}):
            _check_search(strategy, space, limits, n, trials, seed)


@foreseen()
def check_fields_of_strategy(strategy: Any) -> None:
    """Those laws of a strategy that need no search. Raises Broken."""
    frozen(strategy)
    check_names(strategy, STRATEGY)
    if gradient.is_meant(strategy):
        return gradient.check_fields(strategy)
    has(strategy, "init ask tell")
    _check_generation(strategy)
    any_strategy: Any = strategy
    if isinstance(any_strategy, Sized):
        sized = calls("for_trials takes a number of trials", 20, any_strategy.for_trials, 20)
        law(type(sized) is type(strategy), "for_trials gives such a strategy", 20, type(sized).__name__)
        _check_generation(sized)
    for number in NUMBERS if isinstance(strategy, Waiting) else ():
        needed = calls("needs takes the number of a trial", number, strategy.needs, number)
        whole = isinstance(needed, int | np.integer) and 0 <= needed <= number
        law(whole, "needs(number) is in 0..number: no more were asked for before", number, needed)


def _check_generation(strategy: Any) -> None:
    has(strategy, "generation")
    asked = strategy.generation
    law(type(asked) is int and asked >= 1, "generation is an integer of at least 1", strategy, asked)


def _half(space: Space) -> Limits:
    """A limit that half of the architectures keep."""
    name, values = next(iter(space.cost(sample(space, jr.key(0), 256)).items()))
    return ((name, float(jnp.median(values))),)


def _slots(rows: Encodings, budgets: jax.Array, more: int) -> Proposals:
    """What is pending, and so many empty slots."""
    empty = jnp.full((more, rows.shape[1]), -1, jnp.int32), jnp.zeros(more, jnp.int32)
    return Proposals(jnp.concatenate([rows, empty[0]]), jnp.concatenate([budgets, empty[1]]))


def _check_search(strategy: Any, space: Space, limits: Limits, n: int, trials: int, seed: int) -> None:
    length = len(space.cardinalities)
    state = calls("init gives a state", limits, strategy.init, space, limits)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state))
    law(arrays, "the state is a pytree of arrays", limits, state)
    cost = anew(space.cost)
    start, ask, tell = state, anew(strategy.ask, static_argnums=2), anew(strategy.tell)
    nothing = jnp.zeros((0, length), jnp.int32), jnp.zeros(0, jnp.int32)
    nobody = _slots(*nothing, n + SPARE)
    told: list[Observations] = []
    region(space, limits)  # raises where no architecture keeps the limits

    def proposed(state: Any, key: jax.Array, pending: Proposals, given: str) -> Proposals:
        found = calls("ask works in a jitted function", given, ask, state, key, n, pending)
        calls("ask gives n rows and budgets of int32", given, check_form, strategy, found, n, length)
        _check_values(strategy, space, cost, limits, found)
        return found

    for number in range(max(2, trials // n)):
        key = jr.fold_in(jr.key(seed), number)
        key_ask, key_fail, key_next = jr.split(key, 3)
        given = f"trial {number * n} with limits {limits}, n={n} and pending of {n + SPARE} slots"
        found = proposed(state, key_ask, nobody, given)
        proposed(state, key_next, _slots(found.encodings, found.budgets, SPARE), f"{given}, {n} of which are taken")
        rows = found.encodings
        objectives = jnp.where(jr.uniform(key_fail, (n, 1)) < 0.1, jnp.nan, score(rows)[:, None])  # some trials fail
        told.append(Observations(rows, found.budgets, objectives, found.drawn))
        before = state
        state = calls("tell works in a jitted function", given, tell, state, told[-1])
        same = jax.tree.structure(state) == jax.tree.structure(before) and shapes(state) == shapes(before)
        found = [
            f"{jax.tree.structure(each)} of {[str(shape) for shape, _ in shapes(each)]}" for each in (before, state)
        ]
        law(same, "tell keeps the structure of the state", given, " and then ".join(found))
        if number == 1:
            both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *told)
            once, twice = tell(start, both), tell(tell(start, told[0]), told[1])
            law(alike(once, twice), "two tells are one tell of both", f"{2 * n} observations", "another state")
    # The program is made once more, for other slots: what was drawn while it was traced would be a constant of it.
    key = jr.fold_in(jr.key(seed), trials)
    given = f"{len(told) * n} observations with limits {limits} and n={n}"
    found, again = (
        ask(state, key, n, nobody),
        anew(strategy.ask, static_argnums=2)(state, key, n, _slots(*nothing, n)),
    )
    law(alike(found, again), "ask draws from its key alone, whatever slots are empty", given, again.encodings)
    strange = _strange(space, limits, seed)
    after = calls("tell takes what was never asked", strange.encodings, tell, state, strange)
    for i in range(4):
        proposed(after, jr.fold_in(key, i), nobody, f"{given}, and some that were never asked")


def _check_values(strategy: Any, space: Space, cost: Any, limits: Limits, found: Proposals) -> None:
    rows, budgets = found.encodings, found.budgets
    first(are_choices(space, rows), "proposals are choices of the space", rows, rows)
    first(budgets >= 0, "budgets are at least 0", rows, budgets)
    if allowed := budgets_of(strategy):
        first(jnp.isin(budgets, jnp.asarray(allowed)), f"budgets are some of {allowed}", rows, budgets)
    for name, most in limits:
        price = cost(rows)[name]
        first(price <= most, f"proposals keep the limit {name} <= {most:g}", rows, price)


def _strange(space: Space, limits: Limits, seed: int) -> Observations:
    """What nobody asked for: better than all trials, and over the limits; and a failure."""
    rows = sample(space, jr.key(seed + 1), 64)
    rows = rows[jnp.argsort(feasible(space, rows, limits), stable=True)[:3]]
    return Observations(rows, jnp.zeros(3, jnp.int32), jnp.array([[LOWEST], [jnp.nan], [2 * LOWEST]]))

"""The laws of strategies that learn by gradients: see `strategies.base.GradientStrategy`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.testing.laws import mixing as of_mixtures
from nas.testing.laws.base import alike, anew, calls, first, has, law, shapes
from nas.testing.laws.names import GRADIENT_STRATEGY, check_names, members
from spaces.abilities import Mixable, Mixing
from strategies.base import GradientStrategy, Reacts

ORDERS = ("first", "second", "second-finite")
RANGES = {
    "order": (f"one of {', '.join(ORDERS)}", lambda value: value in ORDERS),
    "partial": ("a whole number of at least 1", lambda value: type(value) is int and value >= 1),
    "warmup": ("in [0, 1)", lambda value: 0 <= value < 1),
    "bilevel": ("True or False", lambda value: type(value) is bool),
    "along_paths": ("True or False", lambda value: type(value) is bool),
    "max_skips": ("a whole number or None", lambda value: value is None or (type(value) is int and value >= 0)),
    "stop_growth": ("at least 0", lambda value: value >= 0),
    "cost_weight": ("at least 0", lambda value: value >= 0),
}


def is_meant(strategy: Any) -> bool:
    """Whether a strategy learns by gradients, even if something of it is missing."""
    return isinstance(strategy, GradientStrategy) or (hasattr(strategy, "mixture") and not hasattr(strategy, "ask"))


def check_fields(strategy: Any) -> None:
    has(strategy, " ".join(members(GradientStrategy)))
    check_names(strategy, GRADIENT_STRATEGY)
    for name, (said, holds) in RANGES.items():
        value = getattr(strategy, name)
        law(calls(f"{name} is {said}", value, holds, value), f"{name} is {said}", type(strategy).__name__, value)


def check(strategy: Any, space: Any, seed: int) -> None:
    """Without a space on the smallest one of cells. Raises Broken."""
    from spaces.nasbench201 import PRESETS

    space = PRESETS["tiny"] if space is None else space
    law(isinstance(space, Mixable), "a gradient strategy searches mixtures: a Mixable", space, type(space).__name__)
    mixing, key = space.mixing(), jr.key(seed)
    key_mixture, key_step = jr.split(key)
    logits = calls("init gives logits", "a key and a mixing", strategy.init, key, mixing)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(logits))
    law(arrays, "logits are a pytree of arrays", "a key and a mixing", logits)
    law(alike(logits, strategy.init(key, mixing)), "init draws from its key alone", "a key and a mixing", logits)
    _check_mixtures(strategy, space, mixing, logits, key_mixture)
    later = _after_step(strategy, mixing, logits, key_step)
    _check_mixtures(strategy, space, mixing, later, key_mixture)
    if isinstance(strategy, Reacts):
        given = later, mixing, 0, 10, 0.5, key
        new = calls("after_epoch gives the logits of the next epoch", "epoch 0", strategy.after_epoch, *given)
        _check_structure("after_epoch", later, new)
        law(alike(new, strategy.after_epoch(*given)), "after_epoch draws from its key alone", "epoch 0", new)
        _check_mixtures(strategy, space, mixing, new, key_mixture)


def _check_structure(maker: str, logits: Any, new: Any) -> None:
    same = jax.tree.structure(new) == jax.tree.structure(logits) and shapes(new) == shapes(logits)
    law(same, f"{maker} keeps the structure of the logits", "logits", jax.tree.structure(new))


def _check_mixtures(strategy: Any, space: Mixable, mixing: Mixing, logits: Any, key: jax.Array) -> None:
    shape = len(mixing.nodes), len(mixing.ops)
    for name in ("weights", "tracked"):
        method = getattr(strategy, name)
        found = calls(f"{name} works in a jitted function", name, anew(lambda of, to=method: to(of, mixing)), logits)
        _check_weights(name, found, shape)
        if name == "weights":
            rows = jax.vmap(space.derive)(found[None])
            of_mixtures.check_derived(space, found[None], rows)
    for progress in (0.0, 0.5, 1.0):
        mixture, again = (
            calls("mixture works in a jitted function", f"progress {progress}", _mixture(strategy, mixing), *given)
            for given in [(logits, key, progress)] * 2
        )
        _check_weights("mixture", mixture, shape)
        law(alike(mixture, again), "mixture draws from its key alone", f"progress {progress}", again)
        if strategy.along_paths:
            one = ((mixture == 0) | (mixture == 1)).all() & (mixture.sum(1) == 1).all()
            law(one, "mixtures are one-hot where along_paths is True", f"progress {progress}", mixture)
        _check_gradients(strategy, mixing, logits, key, progress)


def _mixture(strategy: Any, mixing: Mixing) -> Any:
    return anew(lambda logits, key, progress: strategy.mixture(logits, mixing, key, progress))


def _check_weights(name: str, found: jax.Array, shape: tuple[int, int]) -> None:
    law(found.shape == shape, f"{name} is [edges, ops]", list(shape), found.shape)
    first(jnp.isfinite(found).all(1), f"{name} is finite", found, found)
    first((found >= 0).all(1), f"{name} is not negative", found, found)


def _check_gradients(strategy: Any, mixing: Mixing, logits: Any, key: jax.Array, progress: float) -> None:
    """Of each row of the mixture, and of what is added to the loss, by the logits."""

    def of_mixture(logits: Any) -> list[jax.Array]:
        mixture, pull = jax.vjp(lambda each: strategy.mixture(each, mixing, key, progress), logits)
        edges, ops = mixture.shape
        drawn = jr.normal(jr.key(0), (edges, ops))  # a sum of all is the same for any logits
        return jax.vmap(lambda edge: jax.tree.leaves(pull(edge[:, None] * drawn)[0]))(jnp.eye(edges))

    def of_penalty(logits: Any) -> list[jax.Array]:
        return jax.tree.leaves(jax.grad(lambda each: strategy.penalty(each, mixing, progress))(logits))

    tried = f"progress {progress}"
    for name, gradient in (("mixture", of_mixture), ("penalty", of_penalty)):
        found = calls(f"{name} has a gradient by the logits", tried, anew(gradient), logits)
        law(all(bool(jnp.isfinite(leaf).all()) for leaf in found), f"the gradient of {name} is finite", tried, found)
        if name == "mixture" and progress == 0:
            edges = np.arange(len(mixing.nodes))
            learns = sum((jnp.abs(leaf).reshape(len(edges), -1).sum(1) for leaf in found), jnp.zeros(len(edges)))
            first(learns > 0, "the mixture of each edge has a gradient by the logits", edges, learns)


def _after_step(strategy: Any, mixing: Mixing, logits: Any, key: jax.Array) -> Any:
    """The logits after a step of the optimiser, against a gradient that is drawn."""
    optimiser = calls("optimiser() gives an optax.GradientTransformation", type(strategy).__name__, strategy.optimiser)
    pulled = jax.vjp(lambda each: strategy.mixture(each, mixing, key, 0.5), logits)[1]
    gradient = pulled(jr.normal(key, (len(mixing.nodes), len(mixing.ops))))[0]
    state = calls("the optimiser begins with logits", "logits", optimiser.init, logits)
    updates, _ = calls("the optimiser takes their gradient", "a gradient", optimiser.update, gradient, state, logits)
    new = jax.tree.map(jnp.add, logits, updates)
    _check_structure("the optimiser", logits, new)
    return new

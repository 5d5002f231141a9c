"""Tables of every kind that real ones have, made from a seed: what is tuned is tuned on all of these, never on one.

A member gives a table, or for a space too large to list a function, for every number. Lower is better. Its space and
its costs are the same for all numbers, so that one program serves them all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from proving.made import Made
from spaces.base import Limits, every
from spaces.nasbench201 import EDGES, NONE, SKIP, NasBench201

CHUNK = 2**14


@dataclasses.dataclass(frozen=True)
class Member:
    """`draw` gives, of a generator, the parameters of `score`, which says how bad the rows of a space are."""

    name: str
    space: Any
    draw: Callable[[np.random.Generator], Any]
    score: Callable[[Any, Any], Any]
    shape: Callable[[np.ndarray], np.ndarray] | None = None
    """What becomes of scores of mean 0 and deviation 1; not of a function."""
    noise: float = 0.0
    """Deviation of one training from the mean, as a share of the scores' own."""
    limits: Limits = ()

    @property
    def listed(self) -> bool:
        return every(self.space) is not None

    @functools.lru_cache(maxsize=128)  # noqa: B019
    def table(self, number: int) -> Any:
        """Of a space that can be listed the scores of all rows, float32 [rows], else a function of encodings."""
        draw = np.random.default_rng([sum(map(ord, self.name)), number])
        params = jax.tree.map(lambda each: jnp.asarray(each, jnp.float32), self.draw(draw))
        rows = every(self.space)
        if rows is None:
            return Partial(self.score, params)
        score = jax.jit(self.score)
        parts = [np.asarray(score(params, jnp.asarray(rows[i : i + CHUNK])))[:, 0] for i in range(0, len(rows), CHUNK)]
        scores = np.concatenate(parts).astype(np.float64)
        scores = (scores - scores.mean()) / scores.std()
        return np.asarray(scores if self.shape is None else self.shape(scores), np.float32)

    def legal(self) -> np.ndarray:
        """Of a space that can be listed whether each row keeps the limits."""
        rows = every(self.space)
        costs = self.space.cost(jnp.asarray(rows)) if self.limits else {}
        keeps = np.ones(len(rows), bool)
        for name, most in self.limits:
            keeps &= np.asarray(costs[name]) <= most
        return keeps


# Scores.


def mixed(params: Any, rows: Any) -> Any:
    """What each choice adds, and what each pair of choices of two decisions does."""
    total = params["single"][np.arange(rows.shape[1]), rows].sum(1)
    if "pair" in params:
        one, two = (params[name].astype(jnp.int32) for name in ("one", "two"))
        total += params["pair"][np.arange(len(one)), rows[:, one], rows[:, two]].sum(1)
    if "triple" in params:
        one, two, three = (params[name].astype(jnp.int32) for name in ("t1", "t2", "t3"))
        total += params["triple"][np.arange(len(one)), rows[:, one], rows[:, two], rows[:, three]].sum(1)
    return total[:, None]


def responses(params: Any, rows: Any) -> Any:
    """Widths: each layer is worth the more the wider it is, ever less so, and a bottleneck costs."""
    width = params["widths"][0][rows]
    gain = (params["worth"][None] * width ** params["power"][None]).sum(1)
    narrow = jnp.maximum(jnp.log(width[:, :-1] / width[:, 1:]) - 0.3, 0).sum(1)
    late = params["tilt"][0] * (width * np.linspace(-1, 1, rows.shape[1])[None]).sum(1)
    return (params["bottleneck"][0] * narrow - gain - late)[:, None]


def traps(params: Any, rows: Any) -> Any:
    """Three decisions at a time: all right is best, and else the fewer are right the better."""
    right = (rows == params["right"].astype(jnp.int32)[None]).reshape(len(rows), -1, 3).sum(2)
    worth = jnp.where(right == 3, 3.0, 1.8 - 0.6 * right) * params["weight"][None]
    return -worth.sum(1)[:, None] + 0.3 * mixed(params, rows)


def cells(params: Any, rows: Any) -> Any:
    """A random network of a few units along the edges of a cell: `none` cuts, `skip_connect` copies, and what no
    route leads through does not count."""
    n, width = len(rows), params["start"].shape[0]
    states = [jnp.broadcast_to(params["start"][None], (n, width))]
    for node in range(1, 4):
        total = jnp.zeros((n, width))
        for edge, (source, target) in enumerate(EDGES):
            if target == node:
                through = jnp.einsum("nw,kwv->nkv", states[source], params["ops"])
                through = jnp.where((np.arange(5) == SKIP)[None, :, None], states[source][:, None], through)
                through = jnp.where((np.arange(5) == NONE)[None, :, None], 0.0, through)
                total += through[jnp.arange(n), rows[:, edge]]
        states.append(jnp.tanh(total))
    end = states[-1] @ params["read"]
    alive = jnp.abs(states[-1]).sum(1) > 0
    return jnp.where(alive, -end, 3.0 * jnp.linalg.norm(params["read"]))[:, None]


def _singles(draw: np.random.Generator, space: Any, scale: np.ndarray | float = 1.0) -> np.ndarray:
    most = max(space.cardinalities)
    return draw.normal(size=(len(space.cardinalities), most)) * np.asarray(scale).reshape(-1, 1)


def _interacting(space: Any, strength: float, triples: int = 0, costly: float = 0.0) -> Callable:
    """Some decisions matter more than others; neighbours interact, and a few that are far from one another."""
    length, most = len(space.cardinalities), max(space.cardinalities)

    def draw(rng: np.random.Generator) -> dict:
        weight = rng.gamma(2.0, 0.5, length)
        ends = [(i, i + 1) for i in range(length - 1)]
        ends += [tuple(rng.choice(length, 2, replace=False)) for _ in range(length // 3)]
        one, two = np.array(ends).T
        single = _singles(rng, space, weight)
        if costly:  # dearer choices are better, on the whole
            single -= costly * np.linspace(-1, 1, most)[None] * weight[:, None]
        params = {"single": single, "one": one, "two": two}
        params["pair"] = (
            strength * rng.normal(size=(len(one), most, most)) * np.sqrt(weight[one] * weight[two])[:, None, None]
        )
        if triples:
            picked = np.array([rng.choice(length, 3, replace=False) for _ in range(triples)]).T
            params |= dict(zip(("t1", "t2", "t3"), picked, strict=True))
            params["triple"] = strength * rng.normal(size=(triples, most, most, most))
        return params

    return draw


def _additive(space: Any, costly: float = 0.0) -> Callable:
    def draw(rng: np.random.Generator) -> dict:
        weight = rng.gamma(2.0, 0.5, len(space.cardinalities))
        dear = costly * np.linspace(-1, 1, max(space.cardinalities))[None] * weight[:, None]
        return {"single": _singles(rng, space, weight) - dear}

    return draw


def _widths(rng: np.random.Generator) -> dict:
    return {
        "widths": np.array([[8, 16, 24, 32, 40, 48, 56, 64]]) / 64,
        "worth": rng.gamma(2.0, 0.5, len(WIDTHS.cardinalities)),
        "power": rng.uniform(0.2, 0.8, len(WIDTHS.cardinalities)),
        "bottleneck": rng.uniform(0.0, 0.6, 1),
        "tilt": rng.normal(size=1) * 0.4,
    }


def _traps(rng: np.random.Generator) -> dict:
    length = len(TRAPS.cardinalities)
    right = rng.integers(0, 4, length)
    return {"right": right, "weight": rng.uniform(0.7, 1.3, length // 3), "single": _singles(rng, TRAPS)}


def _cell(rng: np.random.Generator, width: int = 8) -> dict:
    ops = rng.normal(size=(5, width, width)) * np.array([0, 0, 0.7, 1.0, 0.45])[:, None, None] / np.sqrt(width) * 1.6
    ops[4] += 0.5 * np.eye(width)
    return {"start": rng.normal(size=width), "ops": ops, "read": rng.normal(size=width)}


# Shapes: what a score of mean 0 and deviation 1 becomes.


def share(z: np.ndarray) -> np.ndarray:
    """An error in 0..1, crowded where it is low, as trained networks' are."""
    return 0.06 * np.exp(0.5 * z) / (1 + 0.06 * np.exp(0.5 * z))


def loss(z: np.ndarray) -> np.ndarray:
    """In a unit of thousands, with a long tail."""
    return 2000 * np.exp(1.2 * z) + 300


def similarity(z: np.ndarray) -> np.ndarray:
    """As SSIM, the higher the better, so minus it."""
    return -(1 - 0.1 * np.exp(0.4 * z))


def tied(z: np.ndarray) -> np.ndarray:
    """Of few values: a test set of fifty images. What is best stays alone."""
    rounded = np.round(share(z) * 50) / 50
    return np.where(z == z.min(), rounded.min() - 0.002, rounded)


def failing(z: np.ndarray) -> np.ndarray:
    """A fifth of the rows cannot be trained, mostly bad ones."""
    bad = (np.arange(len(z)) * 2654435761 % 1000) / 1000 < np.where(z > 0.8, 0.6, 0.1)
    return np.where(bad & (z > z.min()), np.nan, share(z))


def _macs(length: int, most: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """What choices cost: the later the dearer."""
    draw = np.random.default_rng(seed)
    scale = np.sort(draw.uniform(0.5, 2, length))
    return tuple(tuple(float(s * 1e6 * (1 + c * draw.uniform(0.6, 1.4))) for c in range(most)) for s in scale)


def _made(sizes: tuple[int, ...], seed: int | None = 0, **more: Any) -> Made:
    return Made(sizes, plain=() if seed is None else _macs(len(sizes), max(sizes), seed), **more)


CHAIN = _made((3,) * 8)
PAIRS = _made((4,) * 7)
DEAR = _made((3,) * 8, steep=True)
FREE = _made((4,) * 7, seed=None)
FAR = _made((5,) * 6)
PARTIAL = _made((4,) * 7, gaps=600)
WIDTHS = Made((8,) * 5, widths=((8.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0, 64.0),) * 5)
TRAPS = _made((4,) * 6, seed=None)
MANY = _made(tuple(4 + i % 5 for i in range(28)), seed=3)
MORE = _made(tuple(3 + i % 4 for i in range(60)), seed=None)

MEMBERS = {
    member.name: member
    for member in (
        Member("chain", CHAIN, _interacting(CHAIN, 0.25), mixed, share, noise=0.02),
        Member("dear", DEAR, _interacting(DEAR, 0.25), mixed, share, noise=0.02),
        Member("sum", CHAIN, _additive(CHAIN, 0.4), mixed, share, noise=0.02),
        Member("pairs", PAIRS, _interacting(PAIRS, 0.5, costly=0.4), mixed, share, noise=0.02),
        Member("free", FREE, _interacting(FREE, 0.5), mixed, share, noise=0.02),
        Member("triples", FAR, _interacting(FAR, 0.6, triples=4, costly=0.3), mixed, similarity),
        Member("cells", NasBench201(), _cell, cells, share, noise=0.02),
        Member("widths", WIDTHS, _widths, responses, share, noise=0.02),
        Member("traps", TRAPS, _traps, traps, share),
        Member("losses", PAIRS, _interacting(PAIRS, 0.7), mixed, loss, noise=0.005),
        Member("ties", CHAIN, _interacting(CHAIN, 0.4, costly=0.4), mixed, tied),
        Member("failures", FREE, _interacting(FREE, 0.4), mixed, failing, noise=0.02),
        Member("partial", PARTIAL, _interacting(PARTIAL, 0.5, costly=0.3), mixed, share, limits=(("unmeasured", 0.0),)),
        Member("many", MANY, _interacting(MANY, 0.4, costly=0.3), mixed),
        Member("more", MORE, _interacting(MORE, 0.3), mixed),
    )
}

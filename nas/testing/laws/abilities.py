"""The laws of what spaces may do besides: see `spaces.abilities`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.testing.laws.base import calls, first, law
from spaces.abilities import (
    Backbone,
    Decision,
    Drawable,
    Drawing,
    Featured,
    Graph,
    Graphed,
    Redundant,
    Scored,
    Varied,
    Worded,
)
from spaces.base import Encodings, Space


def check(space: Space, rows: Encodings, seed: int) -> None:
    """The laws of those that the space has, on canonical rows. Raises Broken."""
    any_space: Any = space
    laws = {
        Worded: _words,
        Graphed: _graph,
        Backbone: _maps,
        Drawable: lambda space: _drawings(space, np.asarray(rows[:4])),
        Featured: lambda space: _features(space, rows),
        Scored: lambda space: _scores(space, rows),
        Varied: lambda space: _kinds(space, rows),
        Redundant: lambda space: _equivalents(space, rows, seed),
    }
    for ability, keeps in laws.items():
        if isinstance(any_space, ability):
            keeps(any_space)


def _words(space: Any) -> None:
    found = calls("decisions() says what is decided", space, space.decisions)
    law(isinstance(found, tuple), "decisions() gives a tuple", space, type(found).__name__)
    for each in found:
        law(isinstance(each, Decision), "decisions() gives spaces.abilities.Decision", space, type(each).__name__)
    sizes = tuple(len(each.choices) for each in found)
    law(sizes == space.cardinalities, "decisions() has a word for each choice of each decision", space, sizes)


def _graph(space: Any) -> None:
    found, sizes = calls("graph() says where decisions lie", space, space.graph), space.cardinalities
    law(isinstance(found, Graph), "graph() gives a spaces.abilities.Graph", space, type(found).__name__)
    for edge in found.edges:
        source, target, decision = edge
        forward = 0 <= source < target < found.num_nodes
        law(forward, "edges of graph() lead to later nodes", f"{found.num_nodes} nodes", edge)
        law(0 <= decision < len(sizes), "edges of graph() carry decisions", f"{len(sizes)} decisions", edge)
    blocked = found.blocked is None or 0 <= found.blocked < max(sizes)
    law(blocked, "graph().blocked is a choice, or None", sizes, found.blocked)


def _maps(space: Any) -> None:
    found = calls("maps() says what networks give", space, space.maps)
    pairs = [each for each in found if len(each) == 2 and min(each) >= 1]
    law(len(pairs) == len(found) > 0, "maps() gives strides and channels", space, found)
    strides = [stride for stride, _ in found]
    law(strides == sorted(strides), "maps() begins with the finest", space, found)


def _drawings(space: Any, rows: np.ndarray) -> None:
    for row in rows:
        for each in calls("drawings takes an encoding", row, space.drawings, row):
            law(isinstance(each, Drawing), "drawings gives spaces.abilities.Drawing", row, type(each).__name__)
            n = len(each.nodes)
            for edge in each.edges:
                law(0 <= edge[0] < n and 0 <= edge[1] < n, "edges of drawings join their nodes", f"{n} nodes", edge)
            places = each.places
            law(places is None or len(places) == n, "drawings have a place for each node, or None", each.nodes, places)


def _features(space: Any, rows: Encodings) -> None:
    found = calls("features works in a jitted function", rows[0], jax.jit(space.features), rows)
    law(isinstance(found, tuple | list) and found, "features gives groups of numbers", rows[0], type(found).__name__)
    for group in found:
        law(group.ndim == 2 and len(group) == len(rows), "features are [n, d]", len(rows), group.shape)
        first(jnp.isfinite(group).all(1), "features are finite", rows, group)


def _scores(space: Any, rows: Encodings) -> None:
    found = calls("scores_of works in a jitted function", rows[0], jax.jit(space.scores_of), rows)
    law(found.shape == (len(rows), len(space.scores)), "scores_of gives all scores", list(space.scores), found.shape)


def _kinds(space: Any, rows: Encodings) -> None:
    shapes = calls("map_shapes() says what maps there are", space, space.map_shapes)
    found = calls("map_kinds works in a jitted function", rows[0], jax.jit(space.map_kinds), rows)
    law(found.shape == (len(rows),), "map_kinds gives a kind for each row", len(rows), found.shape)
    first((found >= 0) & (found < len(shapes)), "map_kinds are some of map_shapes()", rows, found)


def _equivalents(space: Any, rows: Encodings, seed: int) -> None:
    numbers = jr.randint(jr.key(seed), (len(rows),), 0, 2**20)
    found = calls("equivalents works in a jitted function", rows[0], jax.jit(space.equivalents), rows, numbers)
    law(found.shape == rows.shape, "equivalents keeps the shape", rows[0], found.shape)
    inside = ((found >= 0) & (found < jnp.asarray(space.cardinalities)[None])).all(1)
    first(inside, "equivalents are choices of the space", rows, found)
    same = (space.canonical(found) == space.canonical(rows)).all(1)
    first(same, "equivalents are other ways to write the same network", rows, found)

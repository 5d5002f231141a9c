"""Gradient boosting of trees on features of architectures.

Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", 2017; as a predictor of architectures, White
et al., "How Powerful are Performance Predictors in Neural Architecture Search?", 2021,
https://arxiv.org/abs/2104.01177. LightGBM (the extra `trees`) grows them; what is kept is arrays, so that predicting,
here or on another machine, needs no more than JAX.
"""

import dataclasses
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from predictors.features import features
from predictors.targets import Scale, quantiles, rest_of, restored, scale
from spaces.base import Encodings, Space

FEWEST = 2  # rows of which LightGBM makes trees, where it leaves out some for each


@struct.dataclass
class Forest:
    """Trees of which inner node `i` sends a row left where its feature is at most the threshold; leaves come after the
    inner nodes. A leaf sends rows to itself."""

    feature: Int[Array, "*trees nodes"]
    threshold: Float[Array, "*trees nodes"]
    left: Int[Array, "*trees nodes"]
    right: Int[Array, "*trees nodes"]
    value: Float[Array, "*trees nodes"]


@struct.dataclass
class BoostedTreesParams:
    space: Space = struct.field(pytree_node=False)
    forest: Forest
    scale: Scale
    doubt: Float[Array, ""]
    earlier: Any  # the parameters that this fit started from, or None
    slope: Float[Array, ""]  # what the earlier prediction counts


@dataclasses.dataclass(frozen=True)
class BoostedTrees:
    """Trees on the quantiles of the scores' ranks, each on what those before got wrong."""

    trees: int = 300
    """How many."""
    leaves: int = 15
    """Of a tree, at most."""
    depth: int = 6
    """Of a tree, at most."""
    learning_rate: float = 0.05
    """What a tree counts."""
    least: int = 5
    """Architectures in a leaf, at least."""
    folds: int = 5
    """Of the rows, which say how far off predictions are."""
    seed: int = 0
    """Of the features and rows that a tree sees."""

    def __post_init__(self):
        for name, least in (("trees", 1), ("leaves", 2), ("depth", 1), ("least", 1), ("folds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not 0 <= self.seed < 2**31:  # LightGBM drops the bits above, and so would repeat a smaller seed
            raise ValueError(f"seed={self.seed} must lie in 0..{2**31 - 1}")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate={self.learning_rate} must lie in 0..1, above 0")

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> Any:
        if importlib.util.find_spec("lightgbm") is None:
            raise ImportError("boosted-trees needs LightGBM: pip install 'nas-engine[trees]'")
        known = jnp.isfinite(targets)
        latent = quantiles(targets, known)
        nodes = 2 * self.leaves - 1
        kinds = {"feature": jnp.int32, "threshold": jnp.float32, "left": jnp.int32}
        kinds |= {"right": jnp.int32, "value": jnp.float32}
        shapes = [jax.ShapeDtypeStruct((self.trees, nodes), kind) for kind in kinds.values()]
        slope, rest = jnp.zeros(()), latent
        if start is not None:
            slope, rest = rest_of(latent, self._latent(start, encodings), known)
        x = features(space, encodings)
        *arrays, doubt = jax.pure_callback(self._grow, (*shapes, jax.ShapeDtypeStruct((), jnp.float32)), x, rest, known)
        forest = Forest(**dict(zip(kinds, arrays, strict=True)))
        return BoostedTreesParams(space, forest, scale(targets, latent, known), doubt, start, slope)

    def predict(self, params: Any, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        mean = self._latent(params, encodings)
        return restored(params.scale, mean, jnp.broadcast_to(params.doubt, mean.shape))

    def _grow(self, x: Any, latent: Any, known: Any) -> tuple[np.ndarray, ...]:
        import lightgbm

        x, y = np.asarray(x, np.float64)[np.asarray(known)], np.asarray(latent, np.float64)[np.asarray(known)]
        settings = {
            "num_leaves": self.leaves,
            "max_depth": self.depth,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": min(self.least, max(len(y) // 4, 1)),
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }

        def grown(rows: np.ndarray) -> Any:
            return lightgbm.train(settings, lightgbm.Dataset(x[rows], y[rows]), self.trees)

        if len(y) < FEWEST:  # of which LightGBM makes no trees
            nothing = _arrays([], self.trees, 2 * self.leaves - 1)
            return *nothing, np.asarray(1.0, np.float32)
        forest = _arrays(grown(np.ones(len(y), bool)).dump_model()["tree_info"], self.trees, 2 * self.leaves - 1)
        fold, wrong = np.arange(len(y)) % self.folds, np.zeros(len(y))
        for i in range(self.folds):
            if (fold == i).any() and (fold != i).sum() >= FEWEST:
                wrong[fold == i] = grown(fold != i).predict(x[fold == i], num_threads=1) - y[fold == i]
        return *forest, np.asarray(np.sqrt((wrong**2).mean()) if len(y) else 1.0, np.float32)

    def _latent(self, params: BoostedTreesParams, encodings: Encodings) -> Float[Array, "m"]:
        """What the trees say together, in quantiles."""
        x = features(params.space, encodings)
        first = 0.0 if params.earlier is None else params.slope * self._latent(params.earlier, encodings)

        def one(total: Array, tree: Forest) -> tuple[Array, None]:
            def down(_, at: Array) -> Array:
                goes_left = jnp.take_along_axis(x, tree.feature[at][:, None], 1)[:, 0] <= tree.threshold[at]
                return jnp.where(goes_left, tree.left[at], tree.right[at])

            leaf = jax.lax.fori_loop(0, self.depth, down, jnp.zeros(len(x), jnp.int32))
            return total + tree.value[leaf], None

        return jax.lax.scan(one, jnp.zeros(len(x)) + first, params.forest)[0]


def _arrays(trees: list[dict], count: int, nodes: int) -> tuple[np.ndarray, ...]:
    """Inner nodes by their number, then the leaves; what is left over are leaves of value 0."""
    feature, left, right = (np.zeros((count, nodes), np.int32) for _ in range(3))
    threshold, value = (np.zeros((count, nodes), np.float32) for _ in range(2))
    left[:] = right[:] = np.arange(nodes)

    def place(node: dict, inner: int) -> int:
        return node["split_index"] if "split_index" in node else inner + node.get("leaf_index", 0)

    for i, tree in enumerate(trees):
        inner, waiting = tree["num_leaves"] - 1, [tree["tree_structure"]]
        while waiting:
            node = waiting.pop()
            at = place(node, inner)
            if "split_index" not in node:
                value[i, at] = node["leaf_value"]
                continue
            feature[i, at] = node["split_feature"]
            # Rounded down: in float32 a threshold between two features must not fall on the upper one.
            exact = np.float32(node["threshold"])
            threshold[i, at] = exact if exact <= node["threshold"] else np.nextafter(exact, np.float32(-np.inf))
            left[i, at], right[i, at] = (place(node[side], inner) for side in ("left_child", "right_child"))
            waiting += [node["left_child"], node["right_child"]]
    return feature, threshold, left, right, value

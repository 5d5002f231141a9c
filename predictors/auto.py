"""Several kinds of predictors at once, each trusted as far as it orders what it was not shown.

Wolpert, "Stacked Generalization", 1992, https://doi.org/10.1016/S0893-6080(05)80023-1; Breiman, "Stacked Regressions",
1996 (weights that are not negative). Here weights fall exponentially with how much less a kind's Kendall's tau on rows
that were held out is than the best one's: where one kind is clearly better it is nearly alone, and where they are alike
their mean is better than each.
"""

import dataclasses
import importlib.util
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from predictors.base import Predictor
from predictors.boosted_trees import BoostedTrees
from predictors.gaussian_process import GaussianProcess
from predictors.linear import Linear
from predictors.targets import Scale, quantiles, restored, scale
from spaces.base import Encodings, Space

SHARP = 0.03  # a kind that is worse by so much of Kendall's tau counts 1 / e of the best one; or by half of
# what chance does to the tau of few rows, where this is more
LARGE = 600  # rows, of which more are held out in two parts rather than in `folds`


def _has_trees() -> bool:
    return importlib.util.find_spec("lightgbm") is not None


@struct.dataclass
class AutoParams:
    space: Space = struct.field(pytree_node=False)
    parts: tuple  # the parameters of each kind, of targets that are quantiles
    tau: Float[Array, "kinds"]  # of each on rows that it was not shown; 0 where there are too few
    weights: Float[Array, "kinds"]  # their sum is 1
    scale: Scale


@dataclasses.dataclass(frozen=True)
class Auto:
    """A Gaussian process, linear regression and, where LightGBM is installed, boosted trees."""

    folds: int = 5
    """Parts of the rows, each of which is told by fits on the others; two of more than 600 rows."""
    trees: bool = dataclasses.field(default_factory=_has_trees)
    """Whether boosted trees are among the kinds: by default where LightGBM is installed."""

    sizes: ClassVar[tuple[int, ...]] = GaussianProcess.sizes

    def __post_init__(self):
        if self.folds < 2:
            raise ValueError(f"folds={self.folds} must be at least 2")

    @property
    def kinds(self) -> tuple[Predictor, ...]:
        return (GaussianProcess(), Linear(), *([BoostedTrees()] if self.trees else []))

    def shares(self, params: AutoParams) -> dict[str, float]:
        return dict(zip(("gp", "linear", "boosted-trees"), map(float, params.weights), strict=False))

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> AutoParams:
        known = jnp.isfinite(targets)
        latent = quantiles(targets, known)
        values = jnp.where(known, latent, jnp.nan)
        earlier = [None] * len(self.kinds) if start is None else start.parts
        taus, parts = [], []
        for kind, before in zip(self.kinds, earlier, strict=True):
            taus.append(kendall(self._told(kind, space, encodings, values, before), latent, known))
            parts.append(kind.fit(space, encodings, values, before))
        tau = jnp.stack(taus)
        n = jnp.maximum(known.sum(), 2)
        chance = jnp.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))  # the deviation of tau between what is unrelated
        weights = jax.nn.softmax((tau - tau.max()) / jnp.maximum(SHARP, chance / 2))
        return AutoParams(space, tuple(parts), tau, weights, scale(targets, latent, known))

    def predict(self, params: AutoParams, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        pairs = zip(self.kinds, params.parts, strict=True)
        means, deviations = (jnp.stack(each) for each in zip(*(k.predict(p, encodings) for k, p in pairs), strict=True))
        weights = params.weights[:, None]
        mean = (weights * means).sum(0)
        variance = (weights * (deviations**2 + (means - mean[None]) ** 2)).sum(0)
        return restored(params.scale, mean, jnp.sqrt(variance))

    def _told(
        self, kind: Predictor, space: Space, encodings: Encodings, values: Float[Array, "n"], before: Any
    ) -> Float[Array, "n"]:
        """What fits on the other parts say of each row."""
        known = jnp.isfinite(values)
        folds = self.folds if len(values) <= LARGE else 2
        fold = (jnp.cumsum(known) - 1) % folds

        def one(number: Array) -> Array:
            params = kind.fit(space, encodings, jnp.where(fold == number, jnp.nan, values), before)
            return kind.predict(params, encodings)[0]

        # One after another: one program, and the memory of one fit.
        told = jax.lax.map(one, jnp.arange(folds))
        return told[fold, jnp.arange(len(values))]


def kendall(one: Float[Array, "n"], other: Float[Array, "n"], known: Bool[Array, "n"]) -> Float[Array, ""]:
    """Kendall's tau of the known rows: the share of pairs in the same order less that in the other, of those that both
    tell apart in `other`. 0 where there are none."""

    def row(i: Array) -> tuple[Array, Array]:
        there = known & known[i]
        truth = jnp.sign(other - other[i])
        return (there * jnp.sign(one - one[i]) * truth).sum(), (there * jnp.abs(truth)).sum()

    same, pairs = jax.lax.map(row, jnp.arange(len(one)))
    return same.sum() / jnp.maximum(pairs.sum(), 1)

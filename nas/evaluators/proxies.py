"""Zero-cost scores: what an architecture's network shows at initialisation, without any training.

| score | what it is | paper |
|---|---|---|
| `synflow` | log of the sum of abs(w dR/dw), R the output for an image of ones, all weights made positive | a |
| `naswot` | log-determinant of the kernel that counts at how many ReLUs two images agree | b |
| `jacov` | how little the gradients of the output by the image correlate between images | c |
| `grad_norm` | sum over layers of the norm of the loss's gradient | d |
| `snip` | sum of abs(w dL/dw), L the loss | e |

(a) Tanaka et al., 2020, https://arxiv.org/abs/2006.05467. (b) Mellor et al., 2021, https://arxiv.org/abs/2006.04647.
(c) The first version of (b). (d) Abdelfattah et al., 2021, https://arxiv.org/abs/2101.08134, who collected the others.
(e) Lee et al., 2019, https://arxiv.org/abs/1810.02340.

Of all of them, more is said to be better. As in (d) the weights are those of convolutions and the classifier, and
normalisation is by the batch, without scale and bias. But `synflow` normalises by mean 0 and variance 1, which is to
say not at all, and in float64: sums of positive products grow exponentially with depth.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array

from nas.evaluators.patterns import agreements
from nas.streams import UNTRAINED, generator, stream
from nas.tasks.augment import normalise
from nas.tasks.base import Split, Task
from nas.training.compilation import same_bits
from nas.training.net import Graph, forward, on_path, split, supernet
from spaces.base import Space
from spaces.shared import total
from spaces.single_path import initial_statistics

SCORES = ("synflow", "naswot", "jacov", "grad_norm", "snip")
JITTER = 1e-5  # of the eigenvalues of `jacov`, as in its authors' code


def scores(
    space: Space,
    encoding: tuple[int, ...],
    task: Task,
    seed: int = 0,
    *,
    batch_size: int = 64,
    initialisations: int = 1,
    names: Collection[str] = SCORES,
) -> dict[str, float]:
    """The scores of one architecture by name, each the mean over networks with different initial weights.

    Those in `names`: each takes its own time, and `grad_norm` and `snip` take most. Infinite or NaN where there is no
    such number, as of a network that gives every image the same output. One program serves all architectures of a
    space. With the same seed they are compared on the same images, and with the same weights where they have an
    operation in common.
    """
    path = jnp.asarray(encoding, jnp.int32)
    data = batch(task, seed, batch_size)
    found = []
    for i in range(initialisations):
        graph, shared, statistics = _initial(space, task.kind, seed, i)
        found.append(network_scores(graph, on_path(shared, path), statistics, data, task, path, names))
    # In float32, as strategies see them: the last bits of a factorisation may depend on the number of threads.
    return {name: float(np.float32(np.mean([each[name] for each in found]))) for name in found[0]}


def network_scores(
    graph: Graph,
    weights: nnx.State,
    statistics: nnx.State,
    data: Split,
    task: Task,
    path: Array | tuple[()],
    names: Collection[str] = SCORES,
) -> dict[str, float]:
    """The scores of a network with the weights that it has: those on the path, or of a pruned network without one."""
    images = normalise(jnp.asarray(data.images), task.mean, task.std)
    of_batch = tuple(name for name in SCORES if name in names and name != "synflow")
    found = _seen()((graph, task.kind, of_batch), weights, statistics, path, images, data.labels) if of_batch else {}
    if "synflow" in names:
        with jax.enable_x64(True):
            found["synflow"] = _synflow()(graph, weights, statistics, path, np.ones((1, *images.shape[1:])))
    return {name: _FINISH.get(name, float)(np.asarray(found[name])) for name in SCORES if name in names}


def batch(task: Task, seed: int, size: int) -> Split:
    """Training images, the same for every architecture."""
    chosen = generator(seed, UNTRAINED).permutation(len(task.train))[:size]
    return Split(task.train.images[chosen], task.train.labels[chosen])


def log_determinant(kernel: np.ndarray) -> float:
    return float(np.linalg.slogdet(kernel.astype(np.float64))[1])


def decorrelation(gradients: np.ndarray) -> float:
    """Minus the sum of log v + 1 / v over the eigenvalues v of the rows' correlations; NaN if a row is constant."""
    centred = gradients.astype(np.float64) - gradients.mean(1, keepdims=True, dtype=np.float64)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    if not lengths.all():
        return float("nan")
    rows = centred / lengths
    values = np.linalg.eigvalsh(rows @ rows.T) + JITTER
    return float(-np.sum(np.log(values) + 1 / values))


_FINISH = {"naswot": log_determinant, "jacov": decorrelation}  # on the host, in float64


@functools.lru_cache(maxsize=8)
def _initial(space: Space, kind: Any, seed: int, i: int) -> tuple[Graph, nnx.State, nnx.State]:
    """A network of all architectures of the space. Without scales and biases: at first they would be 1 and 0."""
    return split(supernet(space, kind, jr.fold_in(stream(seed, UNTRAINED), i), affine=False))


def _program(function: Callable[..., Any]) -> Callable[[], Any]:
    """Jitted when it is first called, by when the process has set its cores."""
    return functools.cache(lambda: jax.jit(function, static_argnums=0, compiler_options=same_bits()))


@_program
def _seen(what: tuple[Graph, Any, tuple[str, ...]], weights, statistics, path, images, labels) -> dict[str, Array]:
    """What a batch of images shows, of a network, a kind of task and the scores that are asked for."""
    graph, kind, names = what

    def answer(weights: nnx.State, images: Array) -> Array:
        return forward(graph, weights, statistics, images, path, train=True)[0]

    def loss(weights: nnx.State) -> Array:
        return kind.loss(answer(weights, images), kind.targets(labels, 0.0))

    found = {}
    if "naswot" in names:
        found["naswot"] = agreements(functools.partial(answer, weights), images)
    if "jacov" in names:
        # Not in one backward program with the weights' gradients: on a CPU those cost several times as much.
        by_images = jax.grad(lambda images: _sum(answer(weights, images)))(images)
        found["jacov"] = by_images.reshape(len(images), -1)
    if "grad_norm" in names or "snip" in names:
        gradient = jax.grad(loss)(weights)
        found["grad_norm"] = total(lambda g: jnp.sqrt((g * g).sum()), path, gradient)
        found["snip"] = total(_saliency, path, weights, gradient)
    return found


@_program
def _synflow(graph: Graph, weights, statistics, path, image) -> Array:
    positive = jax.tree.map(lambda w: jnp.abs(jnp.asarray(w, jnp.float64)), weights)

    def response(weights: nnx.State) -> Array:
        network: Any = nnx.merge(graph.definition, weights, initial_statistics(statistics, path), copy=True)
        return _sum(network(image, path, train=False))

    return jnp.log(total(_saliency, path, positive, jax.grad(response)(positive)))


def _sum(outputs: Any) -> Array:
    """Of all that a network gives."""
    return sum((each.sum() for each in jax.tree.leaves(outputs)), jnp.zeros(()))


def _saliency(weight: Array, gradient: Array) -> Array:
    return jnp.abs(weight * gradient).sum()

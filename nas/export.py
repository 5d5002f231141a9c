"""Networks as files: a JSON description and safetensors weights, which load without the search or its store."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt8

from nas import checkpoint
from nas.config import build_space
from nas.errors import UsageError
from nas.inference import flatten, forward, split, unflatten
from nas.store import Store
from nas.tasks.augment import normalise
from spaces.base import Space

DESCRIPTION, WEIGHTS = "architecture.json", "weights.safetensors"


class Exported:
    """A trained network: `predict(images)` gives logits; `network` is the Flax module itself."""

    def __init__(self, description: dict[str, Any], space: Space, network: nnx.Module):
        self.description, self.space, self.network = description, space, network
        self._graph, self._weights, self._statistics = split(network)

    def predict(self, images: UInt8[np.ndarray, "n height width channels"]) -> Array:
        """Logits `[n, num_classes]` of images as they were in training: 0..255, of the same size and channels."""
        scaled = normalise(jnp.asarray(images), tuple(self.description["mean"]), tuple(self.description["std"]))
        return forward(self._graph, self._weights, self._statistics, scaled, (), train=False)[0]


def export(store: Store, architecture: str, out: Path) -> None:
    """Writes the newest stand-alone weights of an architecture, with its description, to a folder."""
    files = store.artifacts(architecture=architecture, kind="weights")
    if not files:
        raise UsageError(
            f"architecture={architecture!r} has not been trained by itself: only the best of a search is "
            "(--finalists); `nas show` lists what is known of it"
        )
    newest = Path(files[-1].path)
    _, description = checkpoint.read(newest)
    if checkpoint.digest(newest) != files[-1].sha256:
        raise UsageError(f"{newest} is not the file that the run wrote: its sha256 differs")
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(newest, out / WEIGHTS)
        (out / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"out={str(out)!r} cannot be written: {error.strerror}") from error


def load(folder: str | Path) -> Exported:
    """The network of an exported folder. Raises UsageError for one that is damaged, or not of this library."""
    folder = Path(folder)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        space, encoding = build_space(description["space"]), np.asarray(description["encoding"], np.int32)
        network = space.build(space.parse(space.describe(encoding)), jax.random.key(0))
    except OSError as error:
        raise UsageError(f"{folder / DESCRIPTION} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / DESCRIPTION} does not describe an architecture: {error}") from error
    arrays, _ = checkpoint.read(folder / WEIGHTS)
    definition, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    names = flatten(weights).keys()
    try:
        weights = unflatten(weights, {name: value for name, value in arrays.items() if name in names})
        statistics = unflatten(statistics, {name: value for name, value in arrays.items() if name not in names})
    except ValueError as error:
        raise UsageError(f"{folder / WEIGHTS} does not fit {folder / DESCRIPTION}: {error}") from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UsageError(f"{folder / WEIGHTS} holds NaN or infinity")
    return Exported(description, space, nnx.merge(definition, weights, statistics))

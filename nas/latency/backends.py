"""What runs a network on a device: a file of the network, or the program that XLA makes of it."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from nas.errors import UsageError, one_line, unknown
from nas.latency.timing import Program
from nas.plain import shown
from spaces.forms import plain

DEVICES = ("cpu", "gpu")


def device(name: str) -> Any:
    """The first device of this machine of that name. Raises UsageError where there is none."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise UsageError(f"device={name!r} is not on this machine, or JAX has no plugin for it; cpu is") from error


def cores() -> int:
    """How many this process may use, as far as the system says it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def by_jax(network: nnx.Module, images: np.ndarray, where: Any) -> Program:
    """Compiled alone, as an exported network is. Its weights are arguments: nothing is computed before."""
    definition, state = nnx.split(network)
    state, images = jax.device_put((state, images), where)
    program = jax.jit(functools.partial(_forward, definition)).lower(state, images).compile()
    return lambda: jax.block_until_ready(program(state, images))


def _forward(definition: nnx.GraphDef, state: Any, images: Any) -> Any:
    network: Any = nnx.merge(definition, state)
    return network(images, (), train=False)


def by_onnxruntime(network: nnx.Module, images: np.ndarray, where: Any) -> Program:
    """Written as ONNX, on as many cores as this process may use; images are in float32, of a fixed number."""
    from nas.saved.as_onnx import INPUT, converted, session

    if where.platform != "cpu":
        raise UsageError(f"backend='onnxruntime' is for device='cpu', not {where.platform!r}")
    definition, state = nnx.split(network)
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    try:
        with plain():
            model = converted(functools.partial(_forward, definition, state), shape, ["outputs"])
    except UsageError:
        raise
    except Exception as error:  # of the converter, whatever it is
        reason = shown(one_line(error) or type(error).__name__)
        said = f"cannot run this network: jax2onnx says {reason}; allowed: jax"
        raise UsageError(f"backend='onnxruntime' {said}") from error
    runs = session(model.SerializeToString(), cores())
    return lambda: runs.run(None, {INPUT: images})


# Another one is a line: it gets a network, images as they are in float32, and the device.
BACKENDS: dict[str, Callable[[nnx.Module, np.ndarray, Any], Program]] = {
    "jax": by_jax,
    "onnxruntime": by_onnxruntime,
}


def backend(name: str) -> Callable[[nnx.Module, np.ndarray, Any], Program]:
    """Raises UsageError for one that is not known."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return BACKENDS[name]

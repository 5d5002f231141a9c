"""A trained network as serialised StableHLO, which JAX runs without this library, and other compilers read.

Images are uint8 `[n, size, size, channels]`, any number of them; scaling is inside, and so is what makes objects of a
detector's outputs. See `jax.export`.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export, lax
from jaxtyping import Array

from nas.saved.programs import Written, check_same, program, trial

if TYPE_CHECKING:
    from nas.saved.networks import Exported

NAME = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def serialised(model: "Exported") -> Written:
    """The file, and the `platforms` that it is for. Raises UsageError where its numbers are not those of the
    network."""
    made = program(model, model.kind.traced)

    def function(images: Array) -> Any:
        return lax.platform_dependent(images, cpu=made.function, default=made.plain)

    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, *made.shape), jnp.uint8)
    data, platforms = _exported(function, images)
    tried = trial(made.shape)
    found = export.deserialize(bytearray(data)).call(tried)
    same = check_same("stablehlo", model, found, model.predict(tried))
    return Written(data, {"platforms": platforms, "trial": same})


def _exported(function: Any, images: jax.ShapeDtypeStruct) -> tuple[bytes, tuple[str, ...]]:
    """For all platforms, or where one of them has no form of an operation for this machine's alone."""
    for platforms in (PLATFORMS, (jax.default_backend(),)):
        try:
            return bytes(export.export(jax.jit(function), platforms=platforms)(images).serialize()), platforms
        except NotImplementedError:
            if platforms != PLATFORMS:
                raise
    raise AssertionError

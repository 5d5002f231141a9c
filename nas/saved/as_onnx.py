"""A trained network as an ONNX file, by jax2onnx, tried with ONNX Runtime before it is written.

Its input `images` is uint8 `[n, size, size, channels]`; scaling is inside. Its output is `logits`, or `numbers` where
numbers were learned; of a detector `scores` and `boxes`, of which overlapping ones are not yet suppressed. The metadata
have the names of the classes, what the images were, and how they became so.
"""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from nas.errors import UsageError, one_line
from nas.saved.programs import Program, Written, check_same, program, trial

if TYPE_CHECKING:
    from nas.saved.networks import Exported

NAME = "model.onnx"
INPUT = "images"


def serialised(model: "Exported", metadata: Mapping[str, Any]) -> Written:
    """The file. Its `batch` is the number of images that it takes at once, None for any number.

    Raises UsageError where jax2onnx is not installed or cannot write the network, or where the numbers of the file are
    not those of the network.
    """
    made = program(model, lambda outputs: tuple(model.kind.parts(outputs).values()))
    names = list(jax.eval_shape(lambda: model.kind.parts(_outputs(model))))
    batch: int | None = None
    try:
        proto = _converted(made, names, "n")
    except UsageError:
        raise
    except Exception:  # of the converter, whatever it is: it may know the operation for a fixed number alone
        batch = 1
        proto = _fixed(made, names)
    _describe(proto, metadata)
    data = proto.SerializeToString()
    tried = trial(made.shape)
    expected = jax.jit(made.function)(tried)
    return Written(data, {"batch": batch, "trial": check_same("onnx", model, _run(data, tried, batch), expected)})


def _outputs(model: "Exported") -> Any:
    """For the shapes alone."""
    size, channels = model.space.image_size, model.space.image_channels  # pyright: ignore[reportAttributeAccessIssue]
    network: Any = model.network
    return network(jnp.zeros((1, size, size, channels)), train=False)


def _fixed(made: Program, names: list[str]) -> Any:
    try:
        return _converted(made, names, 1)
    except Exception as error:
        reason = one_line(error)[:200] or type(error).__name__
        raise UsageError(
            f"format='onnx': jax2onnx cannot write this network ({reason}); allowed: jax, stablehlo"
        ) from error


def _converted(made: Program, names: list[str], batch: str | int) -> Any:
    n = export.symbolic_shape(batch)[0] if isinstance(batch, str) else batch
    return converted(made.plain, jax.ShapeDtypeStruct((n, *made.shape), jnp.uint8), names)


def converted(function: Callable[[Any], Any], images: jax.ShapeDtypeStruct, names: list[str]) -> Any:
    """A function of images as an ONNX model, whose outputs have these names. What jax2onnx raises is not caught.

    Raises UsageError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # that shapes of inner values are not known, for each
        try:
            from jax2onnx import to_onnx

            return to_onnx(function, inputs=[images], input_names=[INPUT], output_names=names, model_name="network")
        except ImportError as error:
            raise missing() from error
        finally:
            logging.disable(disabled)


def missing() -> UsageError:
    return UsageError(
        "format='onnx' needs jax2onnx and onnxruntime, not both installed; pip install 'nas-engine[onnx]'"
    )


def _describe(proto: Any, metadata: Mapping[str, Any]) -> None:
    """Texts as they are, all else as JSON."""
    for name, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)


def session(data: bytes, threads: int | None = None) -> Any:
    """What runs a model on the CPU. Raises UsageError where ONNX Runtime is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnxruntime
    except ImportError as error:
        raise missing() from error
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _run(data: bytes, images: np.ndarray, batch: int | None) -> list[np.ndarray]:
    runs, size = session(data), batch or len(images)
    parts = [runs.run(None, {INPUT: images[i : i + size]}) for i in range(0, len(images), size)]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]

"""The arrays of an exported network whose layers of one bit are written as bits.

In place of the kernel of such a layer is uint8 `[weights / 8, rounded up]`: a bit a weight in the order of the kernel's
axes, the first one in the highest bit, 1 where the weight is -1. Beside it is its scale, float32 `[filters]`, unless it
has none. All else is as it is.
"""

import numpy as np
from flax import nnx

from nas.training.compilation import same_bits
from nas.training.net import flatten
from spaces.binary_ops import BinaryConv
from spaces.packed import PackedConv, Path, binary_convs, of_signs, packed_conv, replaced


def packed_arrays(network: nnx.Module) -> dict[str, np.ndarray]:
    """Of a network in floats. Raises ValueError where it has no layer of one bit."""
    arrays, convs = _state(network), _convs(network)
    for path, conv in convs.items():
        layer = packed_conv(conv, same_bits())
        arrays[_name(path, "kernel")] = np.packbits(np.asarray(layer.negative()))
        if layer.scale is not None:
            arrays[_name(path, "scale")] = np.asarray(layer.scale.get_value())
    return arrays


def unpacked_arrays(network: nnx.Module, arrays: dict[str, np.ndarray]) -> tuple[nnx.Module, dict[str, np.ndarray]]:
    """The network with packed layers, and the arrays of a file by the names that it has for them. Raises ValueError for
    arrays that are none of such a network."""
    arrays = dict(arrays)
    layers = {path: _layer(path, conv, arrays) for path, conv in _convs(network).items()}
    network = replaced(network, layers)
    held = _state(network)
    names = {_name(path, part) for path in layers for part in ("words", "sums", "scale")}
    return network, {**arrays, **{name: held[name] for name in names & held.keys()}}


def _layer(path: Path, conv: BinaryConv, arrays: dict[str, np.ndarray]) -> PackedConv:
    """Takes its arrays away from the others."""
    shape = conv.kernel.get_value().shape
    bits = _taken(arrays, _name(path, "kernel"), (-(-conv.kernel.get_value().size // 8),), np.dtype(np.uint8))
    signs = np.unpackbits(bits)
    if signs[np.prod(shape) :].any():
        raise ValueError(f"array {_name(path, 'kernel')!r} has bits of no weight that are not 0")
    scale = None
    if conv.scaling != "none":
        scale = _taken(arrays, _name(path, "scale"), shape[3:], np.dtype(np.float32))
    return of_signs(conv, signs[: np.prod(shape)].reshape(shape).astype(bool), scale)


def _taken(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = arrays.pop(name, None)
    if array is None:
        raise ValueError(f"array {name!r} is missing")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"array {name!r} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")
    return array


def _convs(network: nnx.Module) -> dict[Path, BinaryConv]:
    convs = binary_convs(network)
    if not convs:
        raise ValueError("its network has no layer of one bit")
    return convs


def _state(network: nnx.Module) -> dict[str, np.ndarray]:
    weights, statistics = nnx.state(network, nnx.Param, nnx.BatchStat)
    return {**flatten(weights), **flatten(statistics)}


def _name(path: Path, part: str) -> str:
    """As `flatten` names the parameters of a module."""
    return ".".join(map(str, (*path, part, "value")))

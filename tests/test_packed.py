"""Packed convolutions: exactly those of layers of one bit, whatever their form; and networks of them as files."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spaces.binary_ops import BinaryConv
from spaces.packed import PackedConv, counted, pack, packed, packed_conv, unpacked


def evaluated(module: nnx.Module, x) -> np.ndarray:
    definition, state = nnx.split(module)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(definition, state)(x))(state, x))


# Words


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_bits_are_packed_and_unpacked(channels, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (3, channels)).astype(bool)
    words = packed(jnp.asarray(bits))
    assert words.shape == (3, -(-channels // 32))
    assert words.dtype == jnp.uint32
    np.testing.assert_array_equal(unpacked(words, channels), bits)
    assert int(jax.lax.population_count(words).sum()) == bits.sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_adders_count_all_bits(n, seed):
    words = np.random.default_rng(seed).integers(0, 2**32, (n, 5), np.uint32)
    words[:, 0], words[:, 1] = 0, 2**32 - 1
    expected = np.unpackbits(words.view(np.uint8).reshape(n, 5, 4), axis=2).sum((0, 2), dtype=int)
    np.testing.assert_array_equal(counted(jnp.asarray(words)), expected)


# Convolutions

FORMS = st.fixed_dictionaries(
    {
        "taps": st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (5, 1)]),
        "inputs": st.integers(1, 9) | st.sampled_from([31, 32, 33, 70]),
        "outputs": st.integers(1, 5),
        "groups": st.integers(1, 3),
        "strides": st.sampled_from([(1, 1), (2, 2), (1, 2)]),
        "dilation": st.integers(1, 3),
        "scale": st.sampled_from(["mean", "learned", "none"]),
        "size": st.tuples(st.integers(1, 7), st.integers(1, 7)),
        "seed": st.integers(0, 2**32 - 1),
    }
)
WIDE = {"taps": (3, 3), "inputs": 32, "outputs": 8, "groups": 1, "strides": (1, 1), "dilation": 1}
WIDE |= {"scale": "mean", "size": (4, 4), "seed": 0}


@settings(max_examples=30, deadline=None)
@given(FORMS)
@example({**WIDE, "inputs": 512, "outputs": 64})  # rows of taps in turn, some filters at a time
@example({**WIDE, "inputs": 256, "outputs": 96, "strides": (2, 2)})  # some filters at a time
@example({**WIDE, "inputs": 264, "outputs": 20, "taps": (5, 5), "dilation": 2})  # rows of taps, all filters
@example({**WIDE, "inputs": 1, "outputs": 1, "groups": 5, "taps": (5, 5), "strides": (2, 2)})  # depthwise
def test_packed_convolutions_are_those_of_bits(form):
    conv, x = layer(form)
    np.testing.assert_array_equal(evaluated(packed_conv(conv), x), evaluated(conv, x))


def layer(form) -> tuple[BinaryConv, jax.Array]:
    """A convolution, and images in which there are zeros of both signs."""
    draw = np.random.default_rng(form["seed"])
    depthwise = form["inputs"] == 1 and form["taps"][0] == form["taps"][1]
    strides = (form["strides"][0],) * 2 if depthwise else form["strides"]
    inputs, outputs = form["inputs"] * form["groups"], form["outputs"] * form["groups"]
    how = {"strides": strides, "dilation": form["dilation"], "groups": form["groups"], "scale": form["scale"]}
    conv = BinaryConv(form["taps"], inputs, outputs, draw, **how)
    if conv.scale is not None:
        conv.scale.set_value(draw.standard_normal(outputs).astype(np.float32))
    x = draw.standard_normal((2, *form["size"], inputs)).astype(np.float32)
    x[draw.random(x.shape) < 0.1] = 0.0
    x[draw.random(x.shape) < 0.1] = -0.0
    return conv, jnp.asarray(x)


def test_padding_adds_nothing():
    conv = BinaryConv((3, 3), 64, 4, np.random.default_rng(0), scale="none")
    conv.kernel.set_value(jnp.ones_like(conv.kernel.get_value()))
    y = evaluated(packed_conv(conv), jnp.ones((1, 3, 3, 64)))
    np.testing.assert_array_equal(y[0, :, :, 0], 64 * np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]))


def test_zero_is_positive_and_what_is_no_number_negative():
    conv = BinaryConv((1, 1), 3, 1, np.random.default_rng(0), scale="none")
    conv.kernel.set_value(jnp.ones_like(conv.kernel.get_value()))
    x = jnp.array([[0.0, -0.0, 1e-30], [jnp.nan, -1e-30, -jnp.inf]]).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(evaluated(packed_conv(conv), x).ravel(), [3, -3])
    np.testing.assert_array_equal(evaluated(conv, x).ravel(), [3, -3])


def test_filters_of_nothing_give_nothing():
    conv = BinaryConv((3, 3), 32, 2, np.random.default_rng(0), scale="mean")
    conv.kernel.set_value(jnp.ones_like(conv.kernel.get_value()))  # less their mean
    x = jnp.ones((1, 4, 4, 32))
    assert not evaluated(conv, x).any()
    assert not evaluated(packed_conv(conv), x).any()


# Networks


class Block(nnx.Module):
    """Layers in a list, in a dictionary and by name, of which one is real."""

    def __init__(self):
        draw = np.random.default_rng(0)
        convs = [BinaryConv((3, 3), 8, 8, draw, scale=scale) for scale in ("mean", "learned", "none")]
        real = BinaryConv((3, 3), 8, 8, draw, real=True)
        self.listed, self.named, self.own = nnx.List([*convs[:1], real]), nnx.Dict({"conv": convs[1]}), convs[2]

    def __call__(self, x):
        for conv in (*self.listed, self.named["conv"], self.own):
            x = x + conv(x)
        return x


def test_layers_of_a_network_are_packed_wherever_they_are_and_the_network_stays():
    network = Block()
    twin = pack(network)
    kinds = [type(each) for each in (*twin.listed, twin.named["conv"], twin.own)]
    assert kinds == [PackedConv, BinaryConv, PackedConv, PackedConv]
    assert all(type(each) is BinaryConv for each in (*network.listed, network.named["conv"], network.own))
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 8))
    np.testing.assert_allclose(evaluated(twin, x), evaluated(network, x), rtol=1e-5, atol=1e-5)

"""Which ReLUs of a network fire for which images, found in the trace of any network.

A network need not know that it is looked at: its jaxpr is evaluated as it is, but for a matrix that is carried along
and to which each ReLU adds its part. What is added up has one shape whatever the layer, so it passes through the
branches of a switch, of which only the chosen one counts, and through loops.

A ReLU is known by what it does, not by its name: it is the larger of zero and of floating numbers whose first axis is
that of the images and is not the only one (`jax.nn.relu`, `relu6`, `jnp.maximum(x, 0)`, `jnp.clip(x, 0)`). Variances
are kept from being negative in this way, too: those of a batch have no axis of images, and those of an image are told
by the root that is taken of them.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core
from jaxtyping import Array, Float

from nas.errors import RunError

Kernel = Float[Array, "n n"]
Zeros = Sequence[bool]  # which inputs of a program are known to be zero
# Calls of one program, by equations. The last is known by either name.
CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2")
MOVES = ("broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze")  # zeros stay zeros
ROOTS = ("sqrt", "rsqrt")


class NoRectifier(UserWarning):
    """A network was asked which of its ReLUs fire, and has none."""


def agreements(function: Callable[[Array], Any], images: Float[Array, "n *shape"]) -> Kernel:
    """For each two images, at how many ReLUs of `function(images)` both fire or neither does.

    It is the kernel of Mellor et al., 2021, https://arxiv.org/abs/2006.04647, equation 2: the number of units minus
    the Hamming distance. Warns where there is no ReLU at all; raises RunError where there are some within an operation
    that cannot be looked into.
    """
    traced, n = jax.make_jaxpr(function)(images), len(images)
    if not _holds(traced, n, [False]):
        said = "no operation of this network is a ReLU, max(x, 0): its images agree nowhere, and naswot tells nothing"
        warnings.warn(said, NoRectifier, stacklevel=2)
    return _evaluate(traced, jnp.zeros((n, n)), [images], [False])[0]


def agreement(x: Float[Array, "n *shape"]) -> Kernel:
    """The part of one ReLU whose input is `x`."""
    signs = jnp.where(x > 0, 1.0, -1.0).reshape(len(x), -1)
    # Whole numbers: exact in float32 up to 2^24 units, so the order of summation does not matter.
    return (signs @ signs.T + signs.shape[1]) / 2


def _evaluate(
    traced: core.ClosedJaxpr, kernel: Kernel, inputs: Sequence[Any], zeros: Zeros
) -> tuple[Kernel, list[Any]]:
    jaxpr = traced.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*traced.consts, *inputs], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation, known, rectified in _equations(traced, len(kernel), zeros):
        if rectified is not None:
            kernel = kernel + agreement(read(rectified))
        kernel, outputs = _step(equation, kernel, [read(variable) for variable in equation.invars], known)
        values.update(zip(equation.outvars, outputs, strict=True))
    return kernel, [read(variable) for variable in jaxpr.outvars]


def _step(equation: core.JaxprEqn, kernel: Kernel, inputs: list[Any], zeros: Zeros) -> tuple[Kernel, list[Any]]:
    name, parameters = equation.primitive.name, equation.params
    programs = list(_programs(equation, zeros))
    if name in CALLS:
        # Nobody differentiates what is evaluated here, so a gradient of one's own is not missed.
        return _evaluate(programs[0][0], kernel, inputs, zeros)
    if any(_holds(program, len(kernel), known) for program, known in programs):
        if name == "cond":
            branches = [functools.partial(_evaluate, branch, zeros=known) for branch, known in programs]
            return lax.switch(inputs[0], branches, kernel, inputs[1:])
        if name == "scan":
            return _scan(parameters, kernel, inputs, programs[0][1])
        if name == "while":
            return _while(parameters, kernel, inputs, programs[1][1])
        raise RunError(f"naswot: the ReLUs within an operation {name!r} cannot be counted")
    outputs = equation.primitive.bind(*inputs, **parameters)
    return kernel, outputs if equation.primitive.multiple_results else [outputs]


def _scan(parameters: dict[str, Any], kernel: Kernel, inputs: list[Any], zeros: Zeros) -> tuple[Kernel, list[Any]]:
    first, last = parameters["num_consts"], parameters["num_consts"] + parameters["num_carry"]
    constants, carry, rows = inputs[:first], inputs[first:last], inputs[last:]

    def body(carried: tuple[Kernel, list[Any]], row: list[Any]) -> tuple[tuple[Kernel, list[Any]], list[Any]]:
        kernel, carry = carried
        kernel, outputs = _evaluate(parameters["jaxpr"], kernel, [*constants, *carry, *row], zeros)
        return (kernel, outputs[: len(carry)]), outputs[len(carry) :]

    how = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    (kernel, carry), stacked = lax.scan(body, (kernel, carry), rows, **how)
    return kernel, [*carry, *stacked]


def _while(parameters: dict[str, Any], kernel: Kernel, inputs: list[Any], zeros: Zeros) -> tuple[Kernel, list[Any]]:
    first = parameters["cond_nconsts"]
    last = first + parameters["body_nconsts"]

    def goes_on(carried: tuple[Kernel, list[Any]]) -> Array:
        condition = parameters["cond_jaxpr"]
        return core.jaxpr_as_fun(condition)(*inputs[:first], *carried[1])[0]

    def body(carried: tuple[Kernel, list[Any]]) -> tuple[Kernel, list[Any]]:
        return _evaluate(parameters["body_jaxpr"], carried[0], [*inputs[first:last], *carried[1]], zeros)

    return lax.while_loop(goes_on, body, (kernel, inputs[last:]))


def _equations(traced: core.ClosedJaxpr, n: int, zeros: Zeros) -> Iterator[tuple[core.JaxprEqn, Zeros, Any]]:
    """The equations of a program, which of the inputs of each are known to be zero, and what it rectifies, if it is a
    ReLU of `n` images."""
    jaxpr = traced.jaxpr
    zero = dict(zip(jaxpr.constvars, map(_is_zero, traced.consts), strict=True))
    zero |= dict(zip(jaxpr.invars, zeros, strict=True))
    rooted: set[Any] = set()  # what ends in a root
    for equation in reversed(jaxpr.eqns):
        name = equation.primitive.name
        if name in ROOTS or (name in ("add", *MOVES) and equation.outvars[0] in rooted):
            rooted |= {variable for variable in equation.invars if not isinstance(variable, core.Literal)}
    for equation in jaxpr.eqns:
        name, variables = equation.primitive.name, equation.invars
        known = [
            _is_zero(variable.val) if isinstance(variable, core.Literal) else zero.get(variable, False)
            for variable in variables
        ]
        if name in MOVES and known[0]:
            zero[equation.outvars[0]] = True
        rectified = None
        if name == "max" and known[0] != known[1]:
            rectified = variables[known[0]]
        elif name == "clamp" and known[0]:
            rectified = variables[1]
        if rectified is not None and (equation.outvars[0] in rooted or not _of_images(rectified.aval, n)):
            rectified = None
        yield equation, known, rectified


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tracer) or not jnp.issubdtype(jnp.result_type(value), jnp.number):
        return False
    return not np.asarray(value).any()


def _of_images(aval: Any, n: int) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.floating) and aval.ndim > 1 and aval.shape[0] == n


def _holds(program: core.ClosedJaxpr, n: int, zeros: Zeros) -> bool:
    return any(
        rectified is not None or any(_holds(inner, n, inputs) for inner, inputs in _programs(equation, known))
        for equation, known, rectified in _equations(program, n, zeros)
    )


def _programs(equation: core.JaxprEqn, zeros: Zeros) -> Iterator[tuple[core.ClosedJaxpr, Zeros]]:
    """The programs that an equation runs, and which of the inputs of each are known to be zero."""
    name, parameters = equation.primitive.name, equation.params
    found: list[core.ClosedJaxpr] = []
    for value in parameters.values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                found.append(each)
            elif isinstance(each, core.Jaxpr):
                found.append(core.ClosedJaxpr(each, []))
    if name == "while":  # in this order
        found = [parameters["cond_jaxpr"], parameters["body_jaxpr"]]
    for inner in found:
        inputs = [False] * len(inner.jaxpr.invars)  # what is carried round a loop may change
        if name in CALLS:
            inputs = zeros
        elif name == "cond":
            inputs = zeros[1:]
        elif name == "scan":
            inputs[: parameters["num_consts"]] = zeros[: parameters["num_consts"]]
        elif inner is parameters.get("body_jaxpr"):
            first, count = parameters["cond_nconsts"], parameters["body_nconsts"]
            inputs[:count] = zeros[first : first + count]
        yield inner, inputs

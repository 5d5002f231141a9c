"""Which ReLUs of a network fire for which images, found in the trace of any network.

A network need not know that it is looked at: its jaxpr is evaluated as it is, but for a matrix that is carried along
and to which each call of `jax.nn.relu` adds its part. What is added up has one shape whatever the layer, so it passes
through the branches of a switch, of which only the chosen one counts, and through loops. ReLUs within a
`lax.while_loop` are not seen.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float

Kernel = Float[Array, "n n"]
CALLS = ("jit", "custom_jvp_call", "custom_vjp_call", "checkpoint")  # of one program, by equations


def agreements(function: Callable[[Array], Any], images: Float[Array, "n *shape"]) -> Kernel:
    """For each two images, at how many ReLUs of `function(images)` both fire or neither does.

    It is the kernel of Mellor et al., 2021, https://arxiv.org/abs/2006.04647, equation 2: the number of units minus
    the Hamming distance.
    """
    return _evaluate(jax.make_jaxpr(function)(images), jnp.zeros((len(images), len(images))), [images])[0]


def agreement(x: Float[Array, "n *shape"]) -> Kernel:
    """The part of one ReLU whose input is `x`."""
    signs = jnp.where(x > 0, 1.0, -1.0).reshape(len(x), -1)
    # Whole numbers: exact in float32 up to 2^24 units, so the order of summation does not matter.
    return (signs @ signs.T + signs.shape[1]) / 2


def _evaluate(traced: core.ClosedJaxpr, kernel: Kernel, inputs: Sequence[Any]) -> tuple[Kernel, list[Any]]:
    jaxpr = traced.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*traced.consts, *inputs], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        kernel, outputs = _step(equation, kernel, [read(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return kernel, [read(variable) for variable in jaxpr.outvars]


def _step(equation: core.JaxprEqn, kernel: Kernel, inputs: list[Any]) -> tuple[Kernel, list[Any]]:
    name, parameters = equation.primitive.name, equation.params
    if _is_relu(equation):
        kernel = kernel + agreement(inputs[0])
    if name in CALLS:
        (inner,) = _inner(equation)
        # Nobody differentiates what is evaluated here, so a gradient of one's own is not missed.
        return _evaluate(inner, kernel, inputs)
    if name == "cond" and _holds_relu(equation):
        branches = [functools.partial(_evaluate, branch) for branch in parameters["branches"]]
        return lax.switch(inputs[0], branches, kernel, inputs[1:])
    if name == "scan" and _holds_relu(equation):
        return _scan(parameters, kernel, inputs)
    outputs = equation.primitive.bind(*inputs, **parameters)
    return kernel, outputs if equation.primitive.multiple_results else [outputs]


def _scan(parameters: dict[str, Any], kernel: Kernel, inputs: list[Any]) -> tuple[Kernel, list[Any]]:
    first, last = parameters["num_consts"], parameters["num_consts"] + parameters["num_carry"]
    constants, carry, rows = inputs[:first], inputs[first:last], inputs[last:]

    def body(carried: tuple[Kernel, list[Any]], row: list[Any]) -> tuple[tuple[Kernel, list[Any]], list[Any]]:
        kernel, carry = carried
        kernel, outputs = _evaluate(parameters["jaxpr"], kernel, [*constants, *carry, *row])
        return (kernel, outputs[: len(carry)]), outputs[len(carry) :]

    how = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    (kernel, carry), stacked = lax.scan(body, (kernel, carry), rows, **how)
    return kernel, [*carry, *stacked]


def _is_relu(equation: core.JaxprEqn) -> bool:
    # The innermost of this name: a jitted `jax.nn.relu` is another call around it.
    return equation.params.get("name") == "relu" and not _holds_relu(equation)


def _holds_relu(equation: core.JaxprEqn) -> bool:
    within = [each for inner in _inner(equation) for each in inner.jaxpr.eqns]
    return any(each.params.get("name") == "relu" or _holds_relu(each) for each in within)


def _inner(equation: core.JaxprEqn) -> list[core.ClosedJaxpr]:
    """The programs that an equation calls."""
    found = []
    for value in equation.params.values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                found.append(each)
            elif isinstance(each, core.Jaxpr):
                found.append(core.ClosedJaxpr(each, []))
    return found

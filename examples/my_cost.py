"""A cost of one's own: a latency that was measured on some device, for each kind of block.

    python run_search.py --cost examples/my_cost.py:phone_ms --limit "phone_ms <= 6" --trials 20

It may be written with JAX, as here, or with anything that takes arrays of NumPy.
"""

import jax.numpy as jnp

MILLISECONDS = jnp.array([0.4, 0.6, 0.9, 0.7])  # by the choice of a block of shufflenet, as if it had been measured


def phone_ms(space, encodings):
    """Of encodings [n, decisions] the milliseconds [n]."""
    return 0.5 + MILLISECONDS[encodings].sum(1)

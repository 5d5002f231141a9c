"""In which of two equal forms a layer is traced: that which XLA runs fast on a CPU, or the plain one of the library.

Some layers are written out for CPUs, as sums of shifted images and the like. Other compilers and file formats know the
plain operation, and have fast code for it.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_plain = contextvars.ContextVar("plain", default=False)


def for_cpu() -> bool:
    """Whether layers are to be in the form for CPUs: where programs run on one, unless they are traced `plain`."""
    return jax.default_backend() == "cpu" and not _plain.get()


def is_plain() -> bool:
    """Whether layers are to be single operations of the library, wherever there is one."""
    return _plain.get()


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Layers that are traced within are single operations of the library. No gradient is asked of them."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)

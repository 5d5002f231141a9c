"""How programs are compiled: the persistent cache, and options that make results repeatable."""

import functools
import gc
import os
from pathlib import Path

import jax

# On a CPU, XLA's default reduction kernels split their work by the number of threads, and so do their sums. These
# types leave them out: the same program then gives the same bits on one core and on many.
_SAME_BITS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
# On a CPU of few cores, XLA's factorisations of many matrices at once can wait for a thread forever. Without this
# scheduler it is rarer, not gone: so linear algebra is also written to factorise one matrix after another.
_IN_ORDER: dict[str, str | bool] = {"xla_cpu_enable_concurrency_optimized_scheduler": False}

OBJECTS = 5_000  # new ones, after which Python looks for garbage


def same_bits() -> dict[str, str | bool]:
    """Compiler options under which results do not depend on the number of threads; empty where XLA has none."""
    return _SAME_BITS if _known("same bits") else {}


def in_order() -> dict[str, str | bool]:
    """Compiler options for programs of linear algebra: its operations do not wait for one another's threads."""
    return _IN_ORDER if _known("in order") else {}


@functools.cache
def _known(which: str) -> bool:
    """Whether this version of XLA knows the options."""
    options = {"same bits": _SAME_BITS, "in order": _IN_ORDER}[which]
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
    except Exception:  # whatever it says of an option that it does not know
        return False
    return True


def quick_start() -> None:
    """What a process does first. Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, by default in the user's
    cache folder, and Python looks for garbage more rarely."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "nas-engine" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Where a compiled program is at hand, it is still traced. That makes objects by the hundred thousand, of which
    # nearly none is garbage, and a fifth of the time went to looking through them.
    if 0 < gc.get_threshold()[0] < OBJECTS:
        gc.set_threshold(OBJECTS)

"""How programs are compiled: the persistent cache, and options that make results repeatable."""

import functools
import os
from pathlib import Path

import jax

# On a CPU, XLA's default reduction kernels split their work by the number of threads, and so do their sums. These
# types leave them out: the same program then gives the same bits on one core and on many.
_SAME_BITS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def same_bits() -> dict[str, str]:
    """Compiler options under which results do not depend on the number of threads; empty where XLA has none."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=_SAME_BITS).lower(0.0).compile()
    except Exception:  # whatever this version of XLA says of an option it does not know
        return {}
    return _SAME_BITS


def use_cache() -> None:
    """Keeps compiled programs in `$JAX_COMPILATION_CACHE_DIR`, by default in the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "nas-engine" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

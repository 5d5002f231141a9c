"""The persistent cache of compiled programs, shared by all runs and workers of a user."""

import os
from pathlib import Path

import jax


def use_cache() -> None:
    """Keeps compiled programs in `$JAX_COMPILATION_CACHE_DIR`, by default in the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "nas-engine" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

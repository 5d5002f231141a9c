"""How programs are compiled: the persistent cache, and options that make results repeatable."""

import atexit
import contextlib
import functools
import gc
import os
import shutil
import tempfile
import warnings
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

CACHE = "JAX_COMPILATION_CACHE_DIR"
FULL = 0.5  # share of the maps that a process may have
OBJECTS = 5_000  # new ones, after which Python looks for garbage


class MissingOption(UserWarning):
    """This version of XLA lacks an option that a promise rests on."""


def same_bits() -> dict[str, str | bool]:
    """Compiler options under which results do not depend on the number of threads; empty where XLA has none."""
    return _known(_SAME_BITS, "results may depend on the number of cores")


def in_order() -> dict[str, str | bool]:
    """Compiler options for programs of linear algebra: its operations do not wait for one another's threads."""
    return _known(_IN_ORDER, "factorisations of matrices may wait for a thread forever on few cores")


def _known(options: dict[str, str | bool], without: str) -> dict[str, str | bool]:
    """The options, if this version of XLA knows them; else none. They are those of CPUs: elsewhere there are none, and
    nothing is lost."""
    return options if jax.default_backend() == "cpu" and _compiles(tuple(options.items()), without) else {}


@functools.cache
def _compiles(options: tuple[tuple[str, str | bool], ...], without: str) -> bool:
    """Whether XLA knows the options; if not, a warning says, once, what is lost. Other errors are raised."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        names = ", ".join(name for name, _ in options)
        warnings.warn(f"this version of XLA has no option {names}: {without}", MissingOption, stacklevel=4)
        return False
    return True


@functools.cache
def _cache_folder() -> Path:
    """Where there is no folder of the user's that can be written, as in a container with a bare user id, one that this
    process and its workers share, and that goes with it."""
    with contextlib.suppress(RuntimeError, OSError):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "nas-engine" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.mkdtemp(prefix="nas-engine-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[CACHE] = str(folder)
    return folder


def quick_start() -> None:
    """What a process does first. Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, by default in the user's
    cache folder, and Python looks for garbage more rarely."""
    if not os.environ.get(CACHE):
        jax.config.update("jax_compilation_cache_dir", str(_cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Where a compiled program is at hand, it is still traced. That makes objects by the hundred thousand, of which
    # nearly none is garbage, and a fifth of the time went to looking through them.
    if 0 < gc.get_threshold()[0] < OBJECTS:
        gc.set_threshold(OBJECTS)


def make_room() -> None:
    """Drops the compiled programs of this process where they are so many that there is soon no room for more: each maps
    memory, which Linux lets a process do so often (vm.max_map_count, 65,530 times by default), and at the end of it XLA
    ends the process. What is used again is compiled again, or read from the cache."""
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        with open("/proc/self/maps", "rb") as maps:
            count = sum(1 for _ in maps)
        if count > FULL * most:
            jax.clear_caches()

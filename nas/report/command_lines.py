"""Commands as they can be pasted in the folder that a job was started in, whether or not its environment is active."""

import os
import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_STORE = "sqlite:///nas.db"


def ask(words: str, store: str) -> str:
    """`nas WORDS`, which are quoted already, of a store."""
    script = Path(sys.executable).with_name("nas")
    program = _program("nas", script) if script.exists() else f"{_program('python', Path(sys.executable))} -m nas"
    return f"{program} {words}{_store_flag(store)}"


def resume(run: str, store: str) -> str:
    """The command that goes on with a run."""
    return ask(f"search --resume {shlex.quote(run)}", store)


def _program(name: str, path: Path) -> str:
    """The name of a program of this environment where typing it runs that one; else its place."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # `uv run` has put it on the path of this process alone
        short = f"uv run {name}" if Path("uv.lock").exists() and Path("run_search.py").exists() else None
    else:
        found = shutil.which(name)
        short = name if found is not None and os.path.samefile(found, path) and _beside(found, path) else None
    return short or shlex.quote(str(path))


def _beside(one: str, other: Path) -> bool:
    """In one folder: an environment's Python is a link to one that knows none of its packages."""
    return Path(one).absolute().parent == other.absolute().parent


def _store_flag(url: str) -> str:
    """Without a password, whoever asks."""
    if url == DEFAULT_STORE:
        return ""
    from nas.store.sql import without_password

    return f" --store {shlex.quote(without_password(url))}"

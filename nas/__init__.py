"""Neural architecture search: launch a search, query what it found, reuse it.

`nas.search(...)` runs a job, `nas.Store(url)` answers questions, `nas.load(folder)` gives an exported network.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.export import load as load
    from nas.job import Outcome
    from nas.store import Store as Store

__all__ = ["Store", "load", "search"]


def search(*, resume: str | None = None, **options: Any) -> "Outcome":
    """Runs a search job. The options are those of the command line and of YAML files:

    >>> outcome = nas.search(space="shufflenet", strategy="random", task="digits", trials=20, workers=0)
    >>> pandas.DataFrame(outcome.top(limit=5))

    Raises `nas.errors.UsageError` for options that cannot be used, `nas.errors.RunError` for a run that failed.
    """
    from nas.job import search

    return search(options, resume)


def __getattr__(name: str) -> Any:
    if name == "Store":
        from nas.store import Store

        return Store
    if name == "load":
        from nas.export import load

        return load
    raise AttributeError(f"module 'nas' has no attribute {name!r}")

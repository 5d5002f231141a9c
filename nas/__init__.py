"""Neural architecture search: launch a search, query what it found, reuse it.

`nas.search(...)` runs a job, `nas.Store(url)` answers questions, `nas.load(folder)` gives an exported network
and `nas.load_predictor(folder)` a predictor.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.report.logs import Callback
    from nas.report.outcome import Outcome
    from nas.saved.networks import load as load
    from nas.saved.predictors import load as load_predictor
    from nas.store.sql import Store as Store

__version__ = "0.1.0"
__all__ = ["Store", "load", "load_predictor", "search"]


def search(*, resume: str | None = None, callback: "Callback | None" = None, **options: Any) -> "Outcome":
    """Runs a search job. The options are those of the command line and of YAML files:

    >>> outcome = nas.search(space="shufflenet", strategy="random", task="digits", trials=20, workers=0)
    >>> pandas.DataFrame(outcome.top(limit=5))

    A space, a strategy and a task may also be values: `space=MySpace()`, `task=(images, labels)`.

    `callback(kind, number, values)` is called with what is measured, once the store has it: `("trial", 12, {"error":
    0.08, "macs": 1e6, ...})`, and likewise for "final" trainings; for "training" the number is the step, and there is
    a "loss". What it raises ends the job, which can be gone on with.

    Raises `nas.errors.UsageError` for options that cannot be used, `nas.errors.RunError` for a run that failed.
    """
    from nas.config import from_values
    from nas.errors import UsageError
    from nas.hosts import asked
    from nas.job.run import search

    data = from_values(options)
    if asked(data) is not None:
        raise UsageError(f"coordinator_address={data['coordinator_address']!r} is for processes of nas search")
    return search(data, resume, callback=callback)


def __dir__() -> list[str]:
    """With what is imported when it is first used."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "Store":
        from nas.store.sql import Store

        return Store
    if name == "load":
        from nas.saved.networks import load

        return load
    if name == "load_predictor":
        from nas.saved.predictors import load as load_predictor

        return load_predictor
    raise AttributeError(f"module 'nas' has no attribute {name!r}")

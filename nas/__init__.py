"""Neural architecture search: launch a search, query what it found, reuse it.

`nas.search(...)` runs a job, `nas.Store(url)` answers questions, `nas.load(folder)` gives an exported network
and `nas.load_predictor(folder)` a predictor.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.report.logs import Callback
    from nas.report.outcome import Outcome
    from nas.saved.networks import load as load
    from nas.saved.predictors import load as load_predictor
    from nas.store.sql import Store as Store

__version__ = "0.1.0"
__all__ = ["Store", "ask", "load", "load_predictor", "search", "tell"]


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


def ask(run: str, n: int = 1, *, store: str = "sqlite:///nas.db") -> list[dict[str, Any]]:
    """What a run proposes next, for others to evaluate: `n` mappings of `trial`, `architecture`, `description`,
    `encoding` and costs, fewer where no more architectures are left. For a run of `search(ask_and_tell=True, ...)`, or
    one that was interrupted.

    Raises `nas.errors.UsageError` for a run whose search is over, and for more than its trials that are left.
    """
    from nas.job.run import asked

    return asked(store, run, n)


def tell(
    run: str, lines: Sequence[Mapping[str, Any]], *, store: str = "sqlite:///nas.db", workers: int | None = None
) -> list[dict[str, Any]]:
    """Proposals and results of others, as trials of a run; what is then known of each, with its `state`.

    A line has the `trial` that `ask` gave, or a new `architecture` as a text or a list of choices; and `metrics` that
    were measured elsewhere, by name, or `failed`, which says why none were. Without either the run evaluates, by so
    many `workers` of Ray; 0 evaluates in this process.

    >>> nas.tell("mine", [{"architecture": [0, 3, 2, 1]}, {"trial": 3, "metrics": {"error": 0.21}}])

    Raises `nas.errors.UsageError`, and records nothing, where any line cannot be taken.
    """
    from nas.job.run import told

    return told({"store": store, **({} if workers is None else {"workers": workers})}, run, lines)


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

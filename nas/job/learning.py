"""A search's strategy with the predictor that it learns by, and the saved one that it may start from."""

import contextlib
import dataclasses
from typing import Any

from nas import config, registry
from nas.config import Config
from nas.errors import UsageError
from nas.evaluators.predicted import Predicted
from nas.job.prior import weights_of
from nas.job.teacher import whole_name
from nas.saved import predictor_jobs
from nas.saved.predictors import check_space
from nas.store.sql import Store
from predictors import PREDICTORS
from spaces.base import Space
from strategies.base import Budgeted, GoesOn, GradientStrategy, Learns
from strategies.guided import Guided
from strategies.prescreened import Prescreened

PRIOR = 0.1  # of the trials: the strength of what the user believes


@dataclasses.dataclass(frozen=True, eq=False)
class Learning:
    """The strategy with what it learns by, as `--prior`, `--prescreen` and `--warm-start` say."""

    strategy: Any
    predictor: Any  # by which it learns, or None
    start: Any  # the saved predictor that it starts from, or None
    digest: str | None = None  # of that one's arrays

    @staticmethod
    def of(settings: Config, space: Space, resume: str | None) -> "Learning":
        """Raises UsageError for predictors that there are not, or that do not fit."""
        strategy, kind, warm = settings.strategy, settings.prescreen, settings.warm_start
        start = digest = None
        if settings.architecture is not None or isinstance(strategy, GradientStrategy):
            for field in ("prior", "prescreen", "warm_start", "save_predictor"):
                if (value := getattr(settings, field)) is not None:
                    name = field.replace("_", "-")
                    raise UsageError(f"{name}={value!r} needs a strategy that proposes architectures to evaluate")
        if kind is not None and warm is not None:
            raise UsageError(
                f"warm-start={warm!r} is of no use beside prescreen={kind!r}, which may be a saved predictor"
            )
        field, name = ("prescreen", kind) if _is_saved(kind) else ("warm-start", warm)
        if name is not None:
            start, digest = _opened(settings.store, field, name)
            check_space(start.card, space, f"{field}={name!r}")
        for word, value in (("prescreen", kind), ("prior", settings.prior)):
            if value is not None and isinstance(strategy, Budgeted):
                raise UsageError(f"{word}={value!r} needs a strategy whose evaluations are all of one budget")
        if kind is not None and "," in settings.objectives and resume is None:  # earlier versions began such runs
            said = f"prescreen={kind!r} screens by one number, and objectives={settings.objectives} are several"
            raise UsageError(said)
        if kind is None and start is not None:
            strategy = _started(strategy, start, field, name)
        predictor = strategy.predictor if isinstance(strategy, Learns) else None
        if settings.prior is not None:
            weights = weights_of(settings.prior, space)
            strategy = Guided(strategy, weights, strength=settings.trials * PRIOR)
        if kind is not None:
            predictor = config.build_predictor(kind) if start is None else start.predictor
            strategy = Prescreened(strategy, predictor, settings.screening)
        if settings.save_predictor is not None:
            if predictor is None:
                raise UsageError(f"save-predictor={settings.save_predictor!r} {NEEDS}")
            if resume is None:
                with Store(settings.store, create=True) as store:
                    predictor_jobs.check_name(store, settings.save_predictor)
        return Learning(strategy, predictor, start, digest)


def _opened(store: str, field: str, name: str) -> tuple[Any, str]:
    """The saved predictor that a field names, and the digest of its arrays."""
    try:
        with Store(store) as opened:
            opened.predictor(name)
    except UsageError as error:
        others = f"a kind of predictor ({', '.join(PREDICTORS)}), or " if field == "prescreen" else ""
        raise UsageError(f"{field}={name!r} must be {others}a saved one: {error}") from error
    return predictor_jobs.opened(store, name)


def _is_saved(kind: str | None) -> bool:
    """Whether what screens is a saved predictor, and no kind of them."""
    return kind is not None and kind not in PREDICTORS and not registry.is_own("predictor", kind)


def with_whole_names(settings: Config) -> Config:
    """With saved predictors and the teacher by their whole names, of which the user may give the beginning: others may
    begin like that when the run is gone on with. Whoever opens predictors says what is wrong with names of none."""

    def whole(name: str) -> str:
        with contextlib.suppress(UsageError), Store(settings.store) as store:
            return store.predictor(name).name
        return name

    changes: dict[str, Any] = {}
    if isinstance(settings.evaluator, Predicted):
        changes["evaluator"] = dataclasses.replace(settings.evaluator, predictor=whole(settings.evaluator.predictor))
    if _is_saved(settings.prescreen):
        changes["prescreen"] = whole(str(settings.prescreen))
    if settings.warm_start is not None:
        changes["warm_start"] = whole(settings.warm_start)
    if (teacher := settings.final.teacher) is not None:
        changes["final"] = dataclasses.replace(settings.final, teacher=whole_name(teacher, settings.store))
    return dataclasses.replace(settings, **changes)


NEEDS = "needs a strategy that learns by a predictor: nao, seminas or bayesian, or --prescreen"


def _started(strategy: Any, start: Any, field: str, name: str | None) -> Any:
    """The strategy with the settings of a saved predictor."""
    if not isinstance(strategy, GoesOn):
        raise UsageError(f"{field}={name!r} needs a strategy that goes on from a predictor: nao, seminas or bayesian")
    own: Any = strategy
    if type(own.predictor) is not type(start.predictor):
        raise UsageError(f"{field}={name!r} is a {start.card['kind']!r}, from which this strategy cannot go on")
    if own.predictor == start.predictor:
        return own
    return dataclasses.replace(own, predictor=start.predictor)

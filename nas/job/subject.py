"""What a job searches, on what: the space bound to its task, and how candidates are scored there.

All that can be wrong with it is said before anything is stored.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas import config, registry
from nas.config import Config, Data
from nas.engine import gradient
from nas.errors import UsageError, unknown
from nas.evaluators.base import Context, Scoring
from nas.evaluators.own import check_names, scoring
from nas.evaluators.predicted import Predicted
from nas.evaluators.supernet import Supernet
from nas.evaluators.table import Tabular
from nas.evaluators.train import Final
from nas.evaluators.train import check as check_recipe
from nas.job.pretraining import check_pretraining, pretraining_of
from nas.job.teacher import teacher_of
from nas.metrics import inner, outer
from nas.plain import shown
from nas.report import command_lines
from nas.report.progress import Reporter, reading
from nas.saved import latencies
from nas.saved.predictor_jobs import opened
from nas.store.query import IDENTITY
from nas.streams import SAMPLE, stream
from nas.tables import Table, table_of
from nas.tasks import check_skips, load
from nas.tasks.augment import check_fits
from nas.tasks.base import Task
from nas.training.distillation import Teacher
from nas.training.net import head_costs
from nas.training.pretraining import Pretraining
from nas.training.recipe import misplaced
from nas.training.sgd import augmentation
from spaces import callbacks
from spaces.base import Limits, Space, sample
from spaces.costs import with_cost, with_head
from spaces.product import Product
from strategies.base import Budgeted, GradientStrategy, budgets_of

COLUMNS = (*IDENTITY, "run", "role", "seconds")  # of what is shown of a trial, beside metrics
ID = re.compile(r"[0-9a-f]{4,12}")  # of an architecture, or the beginning of it


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is searched, on what: images, or a table."""

    space: Space  # as the strategy sees it
    named: Space  # as its architectures are called, whatever they are evaluated on
    task: Task | None  # None for a table
    fingerprint: str  # of the images, or of the table
    scoring: Scoring  # of candidates
    final: Scoring  # of what is trained and tested after the search
    metric: str  # what the task has minimised, such as error
    pretraining: Pretraining | None = None  # of the bodies of detectors
    teacher: Teacher | None = None  # of what is trained by the recipe `final`
    timed: str | None = None  # the digest of the table of latencies
    measured: Limits = ()  # what keeps a search to the rows of a table that were measured

    @property
    def images(self) -> Task:
        assert self.task is not None  # only asked of a run on images
        return self.task


def load_subject(
    settings: Config,
    space_name: str,
    taught: str | None = None,
    task: Task | None = None,
    reporter: Reporter | None = None,
) -> Subject:
    """`taught` is the digest of the teacher with which a run began that goes on, and `task` the images where they were
    loaded before; the `reporter` hears of the reading. Raises UsageError."""
    check_pretraining(settings)
    table = table_of(settings.task, space_name, settings.space)
    if table is not None:
        return _on_table(settings, table)
    task = task or load_task(settings, reporter)
    space, timed = _timed(settings, _ended(bind(settings.space, task), task))
    space = _priced(settings, space)
    check_recipe(space, settings.final)
    if (said := misplaced(settings.training)) is not None:
        raise UsageError(f"training.{said}")
    scores = scoring(settings.evaluator)
    _check_apart(settings, space, scores.metrics(task.kind.metric))
    how = scores, Final(), task.kind.metric
    before = pretraining_of(settings, space, task, reporter)
    teacher = teacher_of(settings, task, taught)
    return Subject(space, space, task, task.fingerprint(), *how, pretraining=before, teacher=teacher, timed=timed)


def _check_apart(settings: Config, space: Space, metrics: Sequence[str]) -> None:
    """Raises UsageError where a metric and a cost are of one name, or one of them is that of another column."""
    known = cost_names(space)
    if not isinstance(settings.evaluator, Scoring):
        check_names(f"evaluator={type(settings.evaluator).__name__!r}: metrics", metrics, COLUMNS)
    check_names(f"space={type(space).__name__!r}: costs", known, (*COLUMNS, *metrics))


def cost_names(space: Space) -> list[str]:
    return list(space.cost(jnp.zeros((1, len(space.cardinalities)), jnp.int32)))


def _on_table(settings: Config, table: Table) -> Subject:
    said = f"cannot be set: the table of task={settings.task!r} says what is measured"
    check_skips(settings.task, settings.skip_invalid)
    if settings.cost is not None:
        raise UsageError(f"cost={settings.cost!r} {said}")
    if settings.latency is not None:
        raise UsageError(f"latency={settings.latency!r} {said}")
    if settings.final.teacher is not None:
        raise UsageError(f"final.teacher={settings.final.teacher!r} {said}")
    if settings.evaluator != Supernet():  # the default
        raise UsageError(f"evaluator={scoring(settings.evaluator).name!r} {said}")
    asked = (*settings.objectives.split(","), *(name for name, _ in settings.limits))
    digest = table.fingerprint()
    found = Tabular(table, settings.table, asked)
    there, strategy = found.budgets(None, settings.final), settings.strategy
    # A budget that the table has not is refused later.
    asks = set(strategy.budgets or there).intersection(there) if isinstance(strategy, Budgeted) else ()
    looks = dataclasses.replace(found.prepare(None), budgets=(0, *sorted(asks)))
    # Of an architecture that lacks one of the numbers nothing is known here.
    table = table.within(looks.names())
    found, final = (dataclasses.replace(found, table=table, tests=tests) for tests in (False, True))
    found.prepare(None).check()
    space = table.searchable()
    known = [name for name in space.costs if name not in dict(table.limits)]
    for name, _ in settings.limits:
        if name not in known:
            raise UsageError(f"limit on {name!r}: the costs of a table are its columns: {', '.join(known) or 'none'}")
    return Subject(space, table.space, None, digest, found, final, "error", measured=table.limits)


def load_task(settings: Config, reporter: Reporter | None = None) -> Task:
    heard = None if reporter is None else reading(reporter)
    task = load(
        settings.task,
        data_dir=None if settings.pretrain is not None else settings.data_dir,
        image_size=settings.image_size,
        resize=settings.resize,
        max_images=settings.max_images,
        skip_invalid=settings.skip_invalid,
        heard=heard,
    )
    for part in ("training", "final"):
        recipe = getattr(settings, part)
        check_fits(augmentation(recipe), task.image_size, f"{part}.")
        task.kind.check_recipe(f"{part}.", recipe)
    return task


def bind(space: Any, task: Task) -> Space:
    """The space with the input and output of the task, as far as it has fields for them. Raises UsageError for a task
    that is none for the space."""
    shape = {name: getattr(task, name) for name in ("image_size", "image_channels", "num_classes")}
    try:
        return with_shape(space, shape)
    except ValueError as error:
        raise UsageError(f"task={task.name!r} is none for this space: {error}") from error


def with_shape(space: Any, shape: Mapping[str, int]) -> Any:
    """The space, and of a product each part, with these fields as far as it has them. Raises ValueError."""
    own = {field.name: getattr(space, field.name) for field in dataclasses.fields(space) if field.init}
    parts = {name: with_shape(part, shape) for name, part in own.items()} if isinstance(space, Product) else {}
    return dataclasses.replace(space, **parts, **{name: size for name, size in shape.items() if name in own})


def _ended(space: Any, task: Task) -> Space:
    """The space whose costs are those of whole networks, with the head of the task, if it has one."""
    if not all(hasattr(space, name) for name in ("image_size", "image_channels")):
        return space  # of no networks: a user's own code evaluates it
    head = head_costs(space, task.kind)
    return with_head(space, head) if head else space


def _timed(settings: Config, space: Space) -> tuple[Space, str | None]:
    """The space with the latency of a device as a cost, and the digest of its table. Raises UsageError."""
    if settings.latency is None:
        return space, None
    latency, digest = latencies.read(os.path.expanduser(settings.latency), space)
    return with_cost(space, latency), digest


def _priced(settings: Config, space: Space) -> Space:
    """The space with the cost of the user's own. Raises UsageError for one that gives no numbers."""
    if settings.cost is None:
        return space
    rows = sample(space, stream(0, SAMPLE), 16)
    with registry.guarded(f"cost={settings.cost!r}"):
        priced = with_cost(space, registry.own("cost", settings.cost))
        found = jax.tree.map(np.asarray, jax.jit(priced.cost)(rows))
        callbacks.check()
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise UsageError(f"cost={settings.cost!r}: {name}={shown(values.tolist())} must be finite numbers")
    return priced


def with_objectives(settings: Config, given: Data, subject: Subject) -> Config:
    """The settings with the objective that the evaluator measures, unless the user names others, which it must have.
    The names are then those by which metrics are kept."""
    measured = subject.scoring.metrics(subject.metric)
    if "objectives" not in given and settings.objectives == Config.objectives:
        settings = dataclasses.replace(settings, objectives=measured[0])
    known = [*measured, *(name for name in cost_names(subject.space) if name not in dict(subject.measured))]
    names = [inner(name, known) for name in settings.objectives.split(",")]
    for name in names:
        if name not in known:
            said = "" if subject.metric in measured else f"evaluator={subject.scoring.name!r}: "
            raise unknown(f"{said}objectives", name, map(outer, known))
    return dataclasses.replace(settings, objectives=",".join(names))


def check_own(given: Data, settings: Config) -> None:
    """Raises UsageError, saying which law, where a part of the user's own breaks its contract."""
    from nas import testing

    names = config.names(given)
    spaces = {names["space"]: settings.space}
    if both := registry.factors("space", names["space"]):
        spaces = dict(zip(both, (settings.space.backbone, settings.space.neck), strict=True))
    for name, space in spaces.items():
        if registry.is_own("space", name):
            with testing.lawful(f"space={name!r}"):
                testing.check_space(space, samples=16, networks=False)
    if registry.is_own("strategy", names["strategy"]):
        with testing.lawful(f"strategy={names['strategy']!r}"):
            testing.check_fields_of_strategy(settings.strategy)
    if settings.prescreen is not None and registry.is_own("predictor", settings.prescreen):
        predictor = registry.value("predictor", settings.prescreen)
        for method in registry.METHODS["predictor"].split():
            if not callable(getattr(predictor, method, None)):
                raise UsageError(f"prescreen={settings.prescreen!r} has no {method}, which a predictor must have")


def check_search(settings: Config, subject: Subject) -> None:
    """Raises UsageError for what cannot be searched, or trained, as the settings say."""
    trains = settings.finalists > 0 or not isinstance(settings.evaluator, Predicted)
    if subject.task is not None and isinstance(settings.evaluator, Scoring) and trains:
        _check_networks(settings, subject)
    if settings.architecture is not None:
        given_row(settings, subject)
    elif isinstance(settings.strategy, GradientStrategy):
        gradient.check(settings, subject.space, subject.task)
    else:
        subject.scoring.check(context_of(settings, subject))


def _check_networks(settings: Config, subject: Subject) -> None:
    """Raises UsageError where a space of the user's own builds what cannot be trained on the images of the task."""
    cls = type(settings.space)
    if registry.is_ours(cls.__module__) or isinstance(settings.space, Product):
        return
    from nas import testing

    row = np.asarray(sample(subject.space, stream(0, SAMPLE), 1))[0]
    with testing.lawful(f"space={cls.__name__!r}"):
        testing.check_build(bind(settings.space, subject.images), np.asarray(subject.space.canonical(row[None]))[0])


def context_of(settings: Config, subject: Subject, **more: Any) -> Context:
    """For those who score. By default no weights are shared, as before the first training."""
    predictor = functools.partial(opened, settings.store)
    return Context(
        subject.space,
        subject.task,
        settings.objective,
        settings.training,
        settings.final,
        pretraining=subject.pretraining,
        teacher=subject.teacher,
        objectives=tuple(settings.objectives.split(",")),
        budgets=budgets_of(settings.strategy),
        **{"shared_weights": _no_weights, "predictor": predictor, **more},
    )


def with_budgets(settings: Config, subject: Subject) -> Config:
    """The settings whose strategy, where it asks for several budgets, has those of the evaluator, unless the user says
    which. Raises UsageError for an evaluator to which they make no difference."""
    if not isinstance(settings.strategy, Budgeted):
        return settings
    scores = subject.scoring
    found = scores.budgets(subject.task, settings.final)
    if not found and isinstance(settings.evaluator, Scoring):
        raise UsageError(
            f"evaluator={scores.name!r} measures the same whatever the epochs, of which the strategy asks for several: "
            "--evaluator train trains for so many, and a table may have several"
        )
    budgets = settings.strategy.budgets or found
    if len(budgets) < 2:
        known = "the evaluator of your own does not say which there are; " if not found else ""
        raise UsageError(f"strategy.budgets={budgets} must be two or more; {known}allowed: such as (1,3,9)")
    strategy: Any = settings.strategy
    if "budgets" not in {field.name for field in dataclasses.fields(strategy)}:
        raise UsageError(
            f"strategy={type(strategy).__name__!r}: budgets must be a field of the class, which users can set"
        )
    if list(budgets) != sorted({budget for budget in budgets if budget >= 1}):
        raise UsageError(f"strategy.budgets={budgets} must be epochs of 1 and more, each more than the one before")
    return dataclasses.replace(settings, strategy=dataclasses.replace(strategy, budgets=budgets))


def _no_weights(affine: bool) -> dict[str, np.ndarray]:
    raise AssertionError("there are no shared weights at this stage")


def given_row(settings: Config, subject: Subject) -> tuple[int, ...]:
    """The architecture to train. Raises UsageError where there is none of that description."""
    if subject.task is None:
        raise UsageError(f"task={settings.task!r} is a table, on which nothing is trained; name images")
    text = str(settings.architecture)
    try:
        return tuple(int(choice) for choice in subject.space.parse(text))
    except ValueError as error:
        hint = f"; {command_lines.ask(f'retrain {text}', settings.store)} trains what has this id"
        raise UsageError(f"architecture={error}{hint if ID.fullmatch(text) else ''}") from error

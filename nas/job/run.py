"""A search job from beginning to end: data, shared weights, search, final training; and the same after a stop.

Everything that is computed follows from the stored configuration, so a resumed job ends as an uninterrupted one.
"""

import contextlib
import dataclasses
import functools
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from nas import config, registry
from nas.config import Config, Data
from nas.engine import loop
from nas.engine.record import measured_as
from nas.errors import DamagedError, Interrupted, RunError, UsageError
from nas.evaluators.train import RUNG_FOLDER
from nas.interrupts import held, reason, stoppable, undisturbed
from nas.job import chosen, finals, helping, outside, plan, stages
from nas.job.begin import begun
from nas.job.context import Ongoing
from nas.job.learning import Learning, with_whole_names
from nas.job.pretraining import check_pretraining
from nas.job.subject import (
    Subject,
    check_own,
    check_search,
    given_row,
    load_subject,
    load_task,
    with_budgets,
    with_objectives,
)
from nas.metrics import outer, outward
from nas.report import command_lines
from nas.report.logs import Callback, Logs
from nas.report.outcome import Outcome
from nas.report.progress import Reporter, Silent
from nas.saved import checkpoint
from nas.store.query import Row, Run, Trial
from nas.store.sql import Store
from nas.streams import SEARCH, stream
from nas.tasks.base import Task
from nas.training.compilation import make_room, quick_start
from strategies.base import GradientStrategy, budgets_of, with_trials
from strategies.region import region

SHOWN = 5  # architectures of an outcome
Result = TypeVar("Result")


def search(
    data: Data, resume: str | None = None, reporter: Reporter | None = None, callback: Callback | None = None
) -> Outcome:
    """Runs the job that the plain data configure, or goes on with a stored run, changing only where it runs.

    `callback` hears what is measured: see `nas.report.logs.Callback`."""
    return _carried_out(_ran, data, resume, reporter, callback)


def asked(store: str, run: str, count: int, reporter: Reporter | None = None) -> list[Row]:
    """The next trials of a stored run, for others to evaluate: see `outside.ask`."""
    return _carried_out(functools.partial(outside.ask, count=count), {"store": store}, run, reporter, None)


def told(data: Data, run: str, lines: Sequence[Any], reporter: Reporter | None = None) -> list[Row]:
    """What others tell of trials of a stored run; the data change where it runs: see `outside.tell`."""

    def tell(job: Ongoing, loop_state: loop.Search | None) -> list[Row]:
        del loop_state
        try:
            return outside.tell(job, lines)
        except KeyboardInterrupt:
            again = command_lines.ask(f"tell {shlex.quote(job.run.name)} FILE", job.store.url)
            raise Interrupted(f"Interrupted; nothing is lost. {again} evaluates what is left") from None
        finally:
            job.pools.close()

    return _carried_out(tell, data, run, reporter, None)


def _carried_out(
    what: Callable[[Ongoing, loop.Search | None], Result],
    data: Data,
    resume: str | None,
    reporter: Reporter | None,
    callback: Callback | None,
) -> Result:
    """What is done with a job of these data, once it is stored, or opened again."""
    began = time.monotonic()
    registry.check_done()
    reporter = reporter or Silent()
    url = data.get("store", Config.store)
    given, taught = data, None
    if resume is not None:
        with Store(url) as store:
            run = store.run(resume)
        stored = run.given
        old = sorted(set(stored) & {"affine", "calibration_images", "zero_cost"})
        if old:
            raise UsageError(
                f"run={run.name!r} was begun by an earlier version, with {old[0]}: it cannot be gone on with"
            )
        changed = {name: value for name, value in data.items() if not config.same_part(name, value, stored)}
        odd = sorted(
            name
            for name, value in changed.items()
            if name not in config.RESUMABLE and not config.moved(name, value, stored)
        )
        if odd:
            allowed = ", ".join(config.RESUMABLE)
            raise UsageError(
                f"{odd[0]} cannot be changed by --resume, which takes no more than {allowed}, and another place of the "
                "same data"
            )
        taught = run.config.get("teacher")
        resume = run.name  # the latest may be another one in a moment
        given = {**stored, **changed, "store": url}
    settings = config.build(given)  # everything that can be wrong with it is said before anything is written
    quick_start()
    make_room()  # jobs before this one may have left many programs
    if resume is None and settings.name is not None:
        _check_name(url, settings.name)
    settings = with_whole_names(settings)
    check_own(given, settings)
    if resume is None:
        config.check_kept(settings, given)
    task = None
    if resume is None and not settings.task.startswith("table:"):
        check_pretraining(settings)
        task = load_task(settings, reporter)
        settings, given = _chosen(settings, given, task, reporter)
    subject = load_subject(settings, config.names(given)["space"], taught, task, reporter)
    settings = _settled(settings, given, subject)
    if settings.time is not None and resume is None:
        given = plan.planned(settings, given, subject, reporter, began)
        settings = _settled(with_whole_names(config.build(given)), given, subject)
    if subject.task is not None and subject.task.note is not None:
        reporter.say(subject.task.note)
    if subject.pretraining is not None and subject.pretraining.task.note is not None:
        reporter.say(subject.pretraining.task.note)
    learning = Learning.of(settings, subject.named, resume)
    helping.check(settings, subject)
    with _usage():
        loop_state = _prepared(settings, subject, learning)
    with Store(url, create=True, files=settings.files) as store:
        run, begins = None, False
        try:
            with held():  # what is stored has a name by which to go on with it
                run = begun(store, settings, given, subject, learning, resume)
            logs = Logs(reporter, callback)
            with stoppable() as stop, store.locked(run, stop), logs.opened(settings.log, run):
                begins, now = True, store.run(run.name)  # others may have gone on with it since it was read
                if (now.id, now.identity) != (run.id, run.identity):
                    raise UsageError(f"run={run.name!r} was deleted meanwhile, and another one begun by its name")
                return what(Ongoing(settings, subject, learning, store, now, reporter, logs), loop_state)
        except KeyboardInterrupt as stop:
            if run is None or isinstance(stop, Interrupted):
                raise
            if resume is None and not begins:
                with undisturbed(), contextlib.suppress(UsageError, RunError):
                    store.set_status(run.id, "interrupted", reason(stop))
            again = command_lines.resume(run.name, store.url)
            raise Interrupted(f"Interrupted; nothing is lost. Go on with: {again}") from None
        except (UsageError, RunError):
            raise
        except Exception as error:
            if not registry.is_of_own(error):
                raise
            raise RunError(registry.told(error)) from error


def _chosen(settings: Config, given: Data, task: Task, reporter: Reporter) -> tuple[Config, Data]:
    """The settings and the data given with the preset that suits the images; the first line of a job says what follows
    from them."""
    suited = chosen.with_preset(given, task)
    if (said := chosen.told(given, suited, task)) is not None:
        reporter.say(said)
    return (settings, given) if suited == given else (with_whole_names(config.build(suited)), suited)


def _settled(settings: Config, given: Data, subject: Subject) -> Config:
    """The settings with what follows from the trials, the data, the space and the evaluator. Raises UsageError."""
    with _usage():
        settings = with_budgets(chosen.with_recipes(settings, given, subject), subject)
        with registry.calling("strategy", settings.strategy):
            settings = dataclasses.replace(settings, strategy=with_trials(settings.strategy, settings.trials))
        return with_objectives(settings, given, subject)


def _check_name(url: str, name: str) -> None:
    """Raises UsageError where a run has the name already: before the work of finding out that all else is well."""
    try:
        store = Store(url)
    except UsageError:
        return  # there is none yet; or it cannot be used, which is said when the run is about to be stored
    with store:
        store.check_new_name(name)


def _prepared(settings: Config, subject: Subject, learning: Learning) -> loop.Search | None:
    """The state of the loop before its first trial; None where there is no loop. Raises for what cannot be searched."""
    check_search(settings, subject)
    if settings.ask_and_tell and (settings.architecture is not None or isinstance(settings.strategy, GradientStrategy)):
        raise UsageError("ask_and_tell=True needs a search by trials, which this is not")
    if settings.architecture is not None or isinstance(settings.strategy, GradientStrategy):
        return None
    limits = settings.limits + subject.measured
    listed = region(subject.space, limits).listed
    with registry.calling("strategy", settings.strategy):
        state = loop.Search(
            learning.strategy,
            subject.space,
            limits,
            stream(settings.seed, SEARCH),
            settings.trials,
            settings.concurrency,
            ordered=not settings.unordered,
            num_legal=None if listed is None else len(listed.rows),
            budgets=budgets_of(learning.strategy),
            asks=not settings.ask_and_tell,
        )
        if learning.start is not None:
            state.state = learning.strategy.warm(state.state, learning.start.params)
    return state


def _ran(job: Ongoing, loop_state: loop.Search | None) -> Outcome:
    """Runs the job, and records how it ended."""
    store, run = job.store, job.run
    try:
        store.set_status(run.id, "running")
        for folder in (job.folder, job.folder / RUNG_FOLDER):
            checkpoint.tidy(folder)
        outcome = _outcome(job, loop_state)
        job.pools.close()
        if outcome.waits:
            store.set_status(run.id, "interrupted", outside.WAITS)
        else:
            store.set_status(run.id, "finished")
        return outcome
    except KeyboardInterrupt as stop:
        with undisturbed():
            with contextlib.suppress(UsageError, RunError):  # the store itself may be what is waited for
                store.set_status(run.id, "interrupted", reason(stop))
            job.pools.close()
        raise
    except BaseException as error:
        with undisturbed():
            # It arose in code of the user's own, which alone would end the process.
            is_own = registry.where(error) is not None or not isinstance(error, Exception)
            said = registry.told(error) if is_own else str(error)
            with contextlib.suppress(UsageError, RunError):  # the store itself may be what failed
                store.set_status(run.id, "failed", said)
        if isinstance(error, DamagedError):
            raise
        again = f"{command_lines.resume(run.name, store.url)} goes on with the run"
        if run.config.get("code") and (isinstance(error, stages.NothingFinished) or registry.is_of_own(error)):
            again += ", and with the code that it began with: what is mended needs a new one"
        if isinstance(error, UsageError | RunError):
            raise type(error)(f"{error}; {again}") from error
        if is_own:
            raise RunError(f"{said}; {again}") from error
        raise
    finally:
        job.pools.close()


def _outcome(job: Ongoing, loop_state: loop.Search | None) -> Outcome:
    settings, store, run = job.settings, job.store, job.run
    if settings.ask_and_tell and not store.tally(run.id):
        stages.evaluator(job)  # so that nobody who tells waits for a training
        return Outcome(run.name, store.url, outer(settings.objective), [], [], waits=True)
    given = settings.architecture is not None
    trials = [] if given else stages.searched(job, loop_state)
    rows = [given_row(settings, job.subject)] if given else _distinct(trials)[: settings.finalists]
    trained = finals.trained(job, rows, rows[0] if given else tuple(trials[0].encoding), given=given)
    by = measured_as(settings.objective, trials[0].measurements) if trials else settings.objective
    best = _best(store, run, trials, by) if trials else []
    with_weights = {file.architecture for file in store.artifacts(run.id, kind="weights")}
    return Outcome(
        run.name,
        store.url,
        outer(by),
        best,
        [outward(row) for row in trained],
        next((row["architecture"] for row in trained if row["architecture"] in with_weights), None),
        objectives=",".join(map(outer, settings.objectives.split(","))),
        metric=outer(job.subject.metric),
        most=outer(by) != by,
        on_table=job.subject.task is None,
        metric_most=outer(job.subject.metric) != job.subject.metric,
        test_images=None if job.subject.task is None else len(job.subject.task.test),
    )


def _best(store: Store, run: Run, trials: Sequence[Trial], by: str) -> list[Row]:
    """The first few, of which what was found comes first: that need not be the best of all that were measured."""
    found, rows = trials[0].architecture, store.top(run.name, by, limit=SHOWN)
    if all(row["architecture"] != found for row in rows):
        rows = store.top(run.name, by, limit=len(trials))
    return sorted(rows, key=lambda row: row["architecture"] != found)[:SHOWN]


def _distinct(trials: Sequence[Trial]) -> list[tuple[int, ...]]:
    """The architectures, each once, in the order of the trials."""
    seen: dict[str, tuple[int, ...]] = {}
    for trial in trials:
        seen.setdefault(trial.architecture, tuple(trial.encoding))
    return list(seen.values())


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """What a strategy or space refuses is a mistake of the configuration."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error

"""With what a run begins, which is stored with it, and whether what goes on is still the same."""

import uuid

import nas
from nas import config, registry
from nas.config import Config, Data
from nas.environment import environment
from nas.errors import UsageError
from nas.job.learning import Learning
from nas.job.subject import Subject, context_of
from nas.saved.predictors import described
from nas.store.query import Run
from nas.store.sql import Store
from spaces.base import fingerprint


def begun(store: Store, settings: Config, given: Data, subject: Subject, learning: Learning, resume: str | None) -> Run:
    """The stored run: a new one, or the one that goes on. Raises UsageError where that began with something else."""
    named = _own_names(settings, given)
    began = {
        "task": subject.fingerprint,
        "pretrain": None if subject.pretraining is None else subject.pretraining.task.fingerprint(),
        "space": fingerprint(subject.named),
        "start": learning.digest,
        "latency": subject.timed,
        "scores": subject.scoring.rests_on(context_of(settings, subject)),
        "code": {kind: registry.mark(kind.partition(" ")[0], name) for kind, name in named.items()},
        "beside": registry.marks_beside() if named else {},
    }
    if resume is not None:
        run = store.run(resume)
        _check_same(run, settings, began, named)
        return run
    # Not where it is stored: that may have a password in it, and whoever finds the run knows it.
    kept = {name: value for name, value in config.to_data(settings, given).items() if name not in config.ELSEWHERE}
    return store.add_run(
        name=settings.name,
        **config.names(given),
        config={
            **began,
            "given": kept,
            "metric": subject.metric,
            "architectures": described(config.names(given)["space"], subject.named),
            "teacher": None if subject.teacher is None else subject.teacher.digest,
            "identity": uuid.uuid4().hex,
            "images": None if subject.task is None else subject.task.counts,
            "environment": environment(),
        },
        code_version=nas.__version__,
        seed=settings.seed,
    )


def _check_same(run: Run, settings: Config, now: Data, named: dict[str, str]) -> None:
    """Raises UsageError where a run began with something else than there is now; `named` are parts of the user's own
    by kind."""
    before = run.config
    code = before.get("code", now["code"])  # which earlier versions did not note
    for kind, mark in now["code"].items():
        if code.get(kind, mark) != mark:
            raise UsageError(f"{kind}={named[kind]!r} has other code than when {run.name} began")
    for module, digest in (before.get("beside") or {}).items():
        if now["beside"].get(module, digest) != digest:
            parts = ", ".join(f"{kind}={name!r}" for kind, name in named.items())
            raise UsageError(f"{parts}: the module {module!r} beside it has other code than when {run.name} began")
    said = {
        "scores": f"the predictor by which {run.name} scores is another now",
        "start": f"the predictor that {run.name} began with is another now",
        "space": f"space={run.space!r} has other architectures than when {run.name} began",
        "task": f"task={settings.task!r} has other images or labels than when {run.name} began",
        "latency": f"latency={settings.latency!r} holds other times than when {run.name} began",
        "pretrain": f"pretrain={settings.pretrain!r} has other images or labels than when {run.name} began",
    }
    for name, line in said.items():
        if before.get(name) != now[name]:
            raise UsageError(line)


def _own_names(settings: Config, given: Data) -> dict[str, str]:
    """The names of the user's own parts by kind; but the task's, of which the data say all."""
    data = config.to_data(settings, given)
    named = {kind: data[kind]["name"] for kind in config.PARTS}
    named |= {"cost": data["cost"], "predictor": settings.prescreen}
    if both := registry.factors("space", named["space"]):
        named |= dict(zip(("space (backbone)", "space (neck)"), both, strict=True))
    own = {kind: name for kind, name in named.items() if name is not None}
    return {kind: name for kind, name in own.items() if registry.is_own(kind.partition(" ")[0], name)}

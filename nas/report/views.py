"""What the page of a run shows in each of its sections, as plain values for the templates."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from nas.metrics import outer, outward
from nas.report import charts, draw, facts, learned, output
from nas.report.facts import Facts
from nas.report.verdict import verdict
from nas.store import query
from nas.store.query import Row, Trial
from spaces.abilities import Drawing

MOST_OPENED = 60  # architectures that are drawn in one page


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a page shows besides the facts of the run."""

    store: str  # without a password
    again: str  # the command that repeats the run; nothing where it is not known
    questions: Sequence[str]  # commands that ask more
    drawn: Callable[[list[int]], list[Drawing]] | None = None
    undrawn: str = ""  # why there are no drawings


class Cell(NamedTuple):
    text: str
    opens: str = ""  # the dialog that it opens
    link: str = ""
    whole: bool = False  # not broken into lines


class Table(NamedTuple):
    columns: Sequence[str]  # none: the first cell of each row is its name
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool] = ()


def cell(value: Any, of: str = "", opens: str = "", link: str = "") -> Cell:
    text = (
        output.number(of, value)
        if isinstance(value, int | float | None | list) and not isinstance(value, bool)
        else str(value)
    )
    return Cell(text, opens, link)


def run(of: Facts, asked: Asked, *, live: bool = False) -> dict[str, Any]:
    """Of pages that are `live`, and made anew every few seconds, without what takes as long to compute."""
    dialogs = _opened(of, asked)
    names = {each["name"]: each["id"] for each in dialogs}
    found = facts.winner(of)
    progress = facts.progress(of)
    return {
        "run": of.run,
        "began": moment(of.run.started),
        "ended": moment(of.run.finished),
        "tiles": _tiles(of, progress, names, found),
        "winner": _winner(of, asked, found),
        "undrawn": asked.undrawn,
        "unit": of.unit,
        "article": "an" if of.unit == "epoch" else "a",
        "objective": of.objective,
        "most": of.most,
        "nothing": _nothing(of),
        "progress": _progress(of, progress, names),
        "failed": len(progress.failed),
        "failures": _failures(of),
        "front": _front(of, names),
        "no_front": _no_front(of),
        "best": _best(of, names),
        "finals": _finals(of, names),
        "compared": _compared(of),
        "ranks": learned.ranks(of),
        "importance": learned.LATER if live else learned.importances(of),
        "over_time": learned.over_time(of),
        "asked": _asked(of),
        "again": asked.again,
        "configuration": Table((), [[Cell(name), Cell(_plain(value))] for name, value in flat(of.given)]),
        "environment": _environment(of),
        "environment_said": _environment_said(of),
        "questions": asked.questions,
        "dialogs": dialogs,
        "store": asked.store,
    }


def moment(text: str | None) -> str:
    return str(text or "").replace("T", " ").replace("+00:00", " UTC")


def _tiles(of: Facts, progress: facts.Progress, names: Mapping[str, str], found: str | None) -> list[dict[str, str]]:
    done = len(of.finished)
    asked = "" if of.asked is None or of.run.strategy == query.RETRAIN else f" of {of.asked}"
    tiles = [{"name": f"{of.unit}s finished", "value": f"{done}{asked}", "opens": ""}]
    if progress.best:
        value = output.number(of.objective, progress.best[-1])
        tiles.append({"name": f"best {of.objective} in the search", "value": value, "opens": ""})
    for name in (f"standalone_{outer(of.run.metric)}", f"test_{outer(of.run.metric)}"):
        first = facts.finals(of)[:1]
        if first and facts.is_number(first[0].measured.get(name)):
            value = output.number(name, first[0].measured[name])
            tiles.append({"name": f"{name} of what was {first[0].role}", "value": value, "opens": ""})
    if found is not None:
        tiles.append({"name": "what was found", "value": found, "opens": names.get(found, "")})
    return tiles


def _opened(of: Facts, asked: Asked) -> list[dict[str, Any]]:
    """The architectures that points and names open: the winner, those trained, the front and the best."""
    edge, found = facts.front(of), facts.winner(of)
    wanted = [found] if found else []
    wanted += [trial.architecture for trial in of.finals]
    wanted += [row["architecture"] for row in (edge.front if edge else [])]
    wanted += [row["architecture"] for row in facts.best(of)]
    wanted = list(dict.fromkeys(wanted))[:MOST_OPENED]
    measured: dict[str, Row] = {}
    for row in of.rows:
        measured.setdefault(row["architecture"], row)
    trials = {trial.architecture: trial for trial in (*of.search, *of.finals)}
    shown = [name for name in wanted if name in trials]
    return [_dialog(f"open-{i}", trials[name], measured.get(name, {}), asked) for i, name in enumerate(shown)]


def _winner(of: Facts, asked: Asked, found: str | None) -> dict[str, Any] | None:
    trial = next((trial for trial in (*of.search, *of.finals) if trial.architecture == found), None)
    row = next((row for row in of.rows if row["architecture"] == found), {})
    return None if trial is None else _dialog("found", trial, row, asked)


def _dialog(name: str, trial: Trial, row: Row, asked: Asked) -> dict[str, Any]:
    shown = {name: value for name, value in outward(row).items() if name not in query.IDENTITY and value is not None}
    values = [[Cell(name), cell(value, of=name)] for name, value in shown.items()]
    drawing = None
    if asked.drawn is not None:
        graphs = asked.drawn(trial.encoding)
        said = f"Drawing of the architecture {trial.architecture}"
        drawing = Markup(draw.svg(graphs, f"{name}-arrow", said)) if graphs else None
    facts_of = {"id": name, "name": trial.architecture, "description": trial.description, "drawing": drawing}
    return {**facts_of, "measured": Table((), values, (False, True))}


def _progress(of: Facts, progress: facts.Progress, names: Mapping[str, str]) -> Markup | None:
    if not progress.values:
        return None
    labels = [
        f"{of.unit} {number}: {charts.reading(of.objective, value)}"
        for number, value in zip(progress.numbers, progress.values, strict=True)
    ]
    opened = [names.get(name, "") for name in progress.architectures]
    return Markup(charts.progress(progress.values, progress.best, opened, of.objective, of.unit, labels))


def _nothing(of: Facts) -> str:
    if of.run.strategy == query.RETRAIN:
        return "Nothing was searched: one architecture was given."
    return f"No {of.unit} has finished{' yet' if of.run.status == 'running' else ''}."


def _failures(of: Facts) -> Table | None:
    said = Counter(str(trial.error) for trial in (*of.search, *of.finals) if trial.state == "failed")
    rows = [[cell(count), Cell(text[:2000])] for text, count in said.most_common(10)]
    return Table(("times", "reason"), rows, (True, False)) if rows else None


def _front(of: Facts, names: Mapping[str, str]) -> dict[str, Any] | None:
    found = facts.front(of)
    if found is None:
        return None
    first, second = found.names[:2]
    x, y = (second, first) if second in output.COUNTS else (first, second)
    at = {row["architecture"]: i for i, row in enumerate(found.rows)}
    members = [at[row["architecture"]] for row in found.front]
    labels = [
        f"{row['architecture']}: " + ", ".join(charts.reading(name, row[name]) for name in found.names)
        for row in found.rows
    ]
    down = tuple(not found.most[found.names.index(name)] for name in (x, y))
    chart = charts.scatter(
        [(float(row[x]), float(row[y])) for row in found.rows],
        (x, y),
        members,
        [names.get(row["architecture"], "") for row in found.rows],
        labels,
        (down[0], down[1]),
    )
    others = f"; shown are the first two of {', '.join(found.names)}" if len(found.names) > 2 else ""
    said = f"{len(found.rows)} architectures by {' and '.join(found.names)}{others}. The {len(members)} "
    said += "orange ones are those that no other dominates; they open a drawing."
    columns = ["architecture", *found.names]
    rows = [[_named(row, names), *(cell(row[name], of=name) for name in found.names)] for row in found.front]
    table = Table(columns, rows, [False] + [True] * len(found.names))
    return {"chart": Markup(chart), "said": said, "members": table}


def _named(row: Row, names: Mapping[str, str]) -> Cell:
    return cell(row["architecture"], opens=names.get(row["architecture"], ""))


def _no_front(of: Facts) -> str:
    if not of.rows:
        return _nothing(of)
    names = [outer(name) for name in facts.objectives(of)]
    return f"There is none: {', '.join(names)} {'is' if len(names) == 1 else 'are'} all that was measured."


def _best(of: Facts, names: Mapping[str, str]) -> Table | None:
    rows = facts.best(of)
    if not rows:
        return None
    extra = [name for name in rows[0] if name not in (*query.IDENTITY, of.objective)]
    shown = [name for name in extra if any(row[name] is not None for row in rows)][:7]
    columns = ["architecture", of.unit, of.objective, *shown]
    cells = [
        [_named(row, names), cell(row["trial"]), *(cell(row[name], of=name) for name in (of.objective, *shown))]
        for row in rows
    ]
    return Table(columns, cells, [False] + [True] * (len(columns) - 1))


def _finals(of: Facts, names: Mapping[str, str]) -> Table | None:
    found = facts.finals(of)
    if not found:
        return None
    metric = outer(of.run.metric)
    first = [f"standalone_{metric}", f"test_{metric}"]
    known = {name for each in found for name in each.measured}
    shown = [*(name for name in first if name in known), *(name for name in ("macs", "params") if name in known)]
    columns = ["role", "architecture", "state", *shown]
    rows = [
        [
            Cell(each.role),
            cell(each.trial.architecture, opens=names.get(each.trial.architecture, "")),
            Cell(each.trial.state),
            *(cell(each.measured.get(name), of=name) for name in shown),
        ]
        for each in found
    ]
    return Table(columns, rows, [False] * 3 + [True] * len(shown))


def _compared(of: Facts) -> list[str]:
    """What was found beside the random ones, and whether that says anything."""
    metric = outer(of.run.metric)
    known = [(each.role, each.measured.get(f"test_{metric}")) for each in facts.finals(of)]
    ours = [value for role, value in known if role != "random" and facts.is_number(value)]
    others = [value for role, value in known if role == "random" and facts.is_number(value)]
    if not ours or not others:
        return []
    images, most = facts.test_images(of), metric != of.run.metric
    said = verdict(metric, ours[0], others, most=most, images=images)
    return [str(said), "What another seed would give, one training does not say."]


KEYS = ("space", "strategy", "task", "evaluator", "objectives", "trials", "epochs", "limit", "max_macs", "max_params")
MORE = (
    "time",
    "cost",
    "latency",
    "prior",
    "prescreen",
    "pretrain",
    "image_size",
    "max_images",
    "finalists",
    "baselines",
    "concurrency",
    "workers",
)


def _asked(of: Facts) -> Table:
    left_out = {"trials"} if of.unit == "epoch" else {"epochs"} if of.run.strategy != query.RETRAIN else {"trials"}
    rows = []
    for name in (*KEYS, *MORE):
        value = of.given.get(name)
        if value is None or name in left_out:
            continue
        if isinstance(value, Mapping):
            value = value.get("name", "")
        if name == "objectives":
            value = ", ".join(map(outer, str(value).split(",")))
        rows.append([Cell(name.replace("_", " ")), Cell(_plain(value))])
    rows.append([Cell("seed"), Cell(str(of.run.seed))])
    return Table((), rows)


def flat(data: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_plain, value)) + ")"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return "-" if value is None else str(value)


def _environment(of: Facts) -> Table:
    stored = of.run.config.get("environment")
    stored = stored if isinstance(stored, Mapping) else {}
    counts = of.run.config.get("images")
    rows = [[Cell("nas-engine"), Cell(str(of.run.code_version))]]
    rows += [[Cell(str(name)), Cell(_plain(value))] for name, value in flat(stored)]
    if isinstance(counts, Mapping):
        rows.append([Cell("images"), Cell(", ".join(f"{part} {number}" for part, number in counts.items()))])
    return Table((), rows)


def _environment_said(of: Facts) -> str:
    if of.run.config.get("environment"):
        return ""
    return "The store does not say on what machine, or with what versions of libraries, this run was begun."

"""What a finished job has come to, and how it is told: its best architectures, and what can be asked of it next."""

import dataclasses
import shlex

from nas.report import command_lines, output
from nas.report.verdict import verdict
from nas.store.query import Row
from nas.store.sql import Store
from spaces.exits import exit_of


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run, and where its results are. Metrics are named as people see them: see `nas.metrics`."""

    name: str
    store: str
    objective: str  # the first
    best: list[Row]  # of the search, by the objective
    finals: list[Row]  # trained from scratch: the best, then the baselines
    trained: str | None = None  # the first architecture of which there are weights
    objectives: str = "error"  # all
    metric: str = "error"  # of the task
    on_table: bool = False  # nothing is trained: it was measured before
    most: bool = False  # of the objective is best, not least
    metric_most: bool = False  # the same of the metric of the task
    waits: bool = False  # for others to propose and to evaluate
    test_images: int | None = None  # on which `test_...` was measured; None where nothing was trained

    def top(self, by: str | None = None, limit: int = 10, where: str | None = None) -> list[Row]:
        with Store(self.store) as store:
            return store.top(self.name, by, limit, where)


def told(found: Outcome) -> str:
    """What a finished job found, and what can be asked of it next."""
    if found.waits:
        run = shlex.quote(found.name)
        ways = {f"ask {run} -n 5": "proposes", f"tell {run} FILE": "takes proposals and results"}
        said = "".join(f"  {command_lines.ask(words, found.store)}  # {what}\n" for words, what in ways.items())
        ends = command_lines.resume(found.name, found.store)
        return f"{found.name} waits for trials:\n\n{said}  {ends}  # ends the search with what there is\n"
    by, text = found.objective, ""
    if found.best:
        said = (
            "validation error in the search" if by == "error" else f"{by} ({'most' if found.most else 'least'} is best)"
        )
        text += f"\nBest architectures of {found.name}, by {said}:\n\n"
        columns = dict.fromkeys(("architecture", "trial", by, found.metric, f"test_{found.metric}", "macs", "params"))
        left_out = ("description", "space", "encoding")  # `nas show` has them
        rows = [{name: value for name, value in row.items() if name not in left_out} for row in found.best]
        text += output.render(rows, columns, "table") + "\n"
        if found.best[0][by] != (max if found.most else min)(row[by] for row in found.best):
            text += "The first is where the search has ended, and what it found; the others lay on its way.\n\n"
    if found.finals:
        finals = [{name: value for name, value in row.items() if exit_of(name) is None} for row in found.finals]
        trained = f"Fully trained (`test_{found.metric}` is measured once, after the last step)"
        text += f"{'After the longest training in the table' if found.on_table else trained}:\n\n"
        rows = [{"role": row["role"], **{k: v for k, v in row.items() if k != "role"}} for row in finals]
        columns = ("role", "architecture", f"standalone_{found.metric}", f"test_{found.metric}", "macs", "params")
        text += output.render(rows, columns, "table") + "\n"
        if said := compared(found):
            text += f"{said}\n\n"
        if exits := [row for each in found.finals for row in of_exits(each)]:
            text += f"At each exit, after so many pyramids:\n\n{output.render(exits, exits[0], 'table')}\n"
    asked = "".join(f"  {command_lines.ask(words, found.store)}\n" for words in questions(found))
    return f"{text}All of it is in {found.store}. Ask it with:\n\n{asked}"


def compared(found: Outcome) -> str | None:
    """What was found beside the random ones in test: see `nas.report.verdict`."""
    name = f"test_{found.metric}"
    ours = [row[name] for row in found.finals if row["role"] != "random" and row.get(name) is not None]
    others = [row[name] for row in found.finals if row["role"] == "random" and row.get(name) is not None]
    if not ours:
        return None
    return verdict(found.metric, ours[0], others, most=found.metric_most, images=found.test_images)


def of_exits(final: Row) -> list[Row]:
    """What was measured and counted of a network at each of its exits, a row an exit; of others nothing."""
    rows: dict[int, Row] = {}
    for name, value in final.items():
        if (found := exit_of(name)) is not None:
            measured, number = found
            rows.setdefault(number, {"architecture": final["architecture"], "exit": number})[measured] = value
    return [rows[number] for number in sorted(rows)]


def questions(found: Outcome) -> list[str]:
    """What can be asked of the run, as the words after `nas`."""
    run, rows = shlex.quote(found.name), found.best or found.finals
    asked = [f"top {run} --limit 10"]
    front = found.objectives
    if "," not in front and found.best and rows[0].get("macs") is not None and front != "macs":
        front = f"{front},macs"
    if found.best and "," in front:
        asked.append(f"pareto {run} --objectives {front}")
    if rows:
        asked.append(f"show {rows[0]['architecture']}")
    if found.trained:
        asked.append(f"export {found.trained} --run {run} --out {shlex.quote(f'{found.name}-best/')}")
    return asked

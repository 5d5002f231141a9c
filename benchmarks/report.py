"""What the benchmark scripts share: the machine and small tables for the README, and the other side of a comparison."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def machine(packages: Sequence[str], **more: str) -> dict[str, str]:
    """Where and when the numbers are taken. `more` names what is not a package of this environment."""
    if os.getloadavg()[0] > 0.5:
        say(f"the machine is busy (load {os.getloadavg()[0]:.1f}): the numbers will be worth little")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **versions,
        **more,
        "load before": f"{os.getloadavg()[0]:.1f}",
        "revision": _revision(),
        "date": datetime.date.today().isoformat(),
    }


def line(machine: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown: the first column to the left, the others to the right."""
    ruler = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ruler, *rows))


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median, and in brackets the range."""
    ranked = sorted(values)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return f"{form.format(middle)} ({form.format(ranked[0])} to {form.format(ranked[-1])})"


def say(text: str) -> None:
    """Progress, on stderr: what is printed on stdout is the result."""
    print(text, file=sys.stderr, flush=True)


def write(path: Path | None, data: dict) -> None:
    if path is not None:
        path.write_text(json.dumps(data, indent=1) + "\n")


def answer(questions: Mapping[str, Callable[[], tuple[str, Any]]], packages: Sequence[str], path: Path | None) -> None:
    """Asks each question, prints its text, and at the end the machine; `path` takes all numbers."""
    found: dict[str, Any] = {"machine": machine(packages)}
    for name, question in questions.items():
        text, found[name] = question()
        print("\n" + text, flush=True)
    print("\n" + line(found["machine"]))
    write(path, found)


def _cpu() -> str:
    """The model; virtual machines name only the family, so their numbers are given too."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in first)}
    return f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family')}, {facts.get('model')})"


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def start(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.Popen:
    """The other side of a comparison, in a process of its own, that answers what it is asked."""
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen, words: str = "") -> Any:
    """Says a line to a process, and hears the line of JSON that it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(words, file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError):
        raise SystemExit(f"the other side ended with status {process.wait()}; see above") from None

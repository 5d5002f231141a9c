"""What a person sees while a job runs: a bar a stage on a terminal, a plain line now and then elsewhere."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from nas.interrupts import check
from nas.plain import printable
from nas.report import output

SECONDS = 30.0  # between two plain lines of one stage


@runtime_checkable
class Reporter(Protocol):
    """Hears what a job does."""

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        """How far a stage is."""
        ...

    def say(self, line: str) -> None:
        """Something that happens once and that the user should know."""
        ...


def reading(reporter: Reporter) -> Callable[[int, int], None]:
    """What hears how many files of the data were read, and of how many."""

    def heard(done: int, total: int) -> None:
        reporter.show("Reading the data", done, total, "")

    return heard


class Silent:
    """Shows no progress. What happens once is a warning of the logger `nas`, which Python writes to stderr."""

    def show(self, stage: str, done: int, total: int, remark: str) -> None: ...

    def say(self, line: str) -> None:
        logging.getLogger("nas").warning(line)


class Bar:
    """On stderr. Without a terminal each stage is a line at its beginning, at its end, and now and then between."""

    def __enter__(self) -> "Bar":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:24}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, TextColumn("{task.fields[remark]}"), console=self._console)
        self._stages = {}
        self._lines = None if self._console.is_terminal else _Lines()
        if self._lines is None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is None:
            self._progress.stop()
        else:
            self._lines.close()

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        check()
        if self._lines is not None:
            self._lines.show(stage, done, total, remark)
            return
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=total, remark=remark)
        self._progress.update(self._stages[stage], completed=done, total=total, remark=remark)

    def say(self, line: str) -> None:
        if self._lines is not None:
            output.tell(line)
        else:
            self._progress.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """As people say it, rounded."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


class _Lines:
    """Progress as plain lines: also while nothing is heard of, so that a log shows that the job lives."""

    def __init__(self):
        self._began = time.monotonic()
        self._written = self._began
        self._stage, self._state = "", ""
        self._pace = 0, self._began  # what was done when the stage was first heard of, and when
        self._done, self._compiles = 0, True
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._repeat, daemon=True).start()

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        with self._lock:
            begins = stage != self._stage
            again = done < self._done  # the stage is about something else now, such as a second folder
            self._done = done
            if begins or again or self._compiles:  # the first step compiles, and is no measure of the others
                self._pace = done, time.monotonic()
            self._compiles = done == 0 or remark == "compiling"
            before, said = self._state, (f"{stage}: {done} of {total}", remark, self._left(done, total))
            self._stage, self._state = stage, "  ".join(part for part in said if part)
            ends = done >= total and self._state != before
            if begins or ends or time.monotonic() - self._written >= SECONDS:
                self._write()

    def _left(self, done: int, total: int) -> str:
        """How long a stage will still take at the pace that it has had, where that can be said."""
        began, since = self._pace
        if done <= began or done >= total:
            return ""
        seconds = (time.monotonic() - since) / (done - began) * (total - done)
        return f"about {duration(seconds)} left" if seconds >= 1 else ""

    def close(self) -> None:
        self._closed.set()

    def _repeat(self) -> None:
        while not self._closed.wait(SECONDS / 10):
            with self._lock:
                if self._stage and time.monotonic() - self._written >= 2 * SECONDS:
                    self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        minutes, seconds = divmod(int(self._written - self._began), 60)
        output.tell(f"{minutes:3d}:{seconds:02d}  {self._state}")

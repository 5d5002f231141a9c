"""What a person sees while a job runs: a bar a stage on a terminal, a plain line now and then elsewhere."""

import sys
import time
from typing import Protocol, runtime_checkable

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


class Silent:
    def show(self, stage: str, done: int, total: int, remark: str) -> None: ...

    def say(self, line: str) -> None: ...


class Bar:
    """On stderr. Without a terminal, each stage is a line at its beginning, at its end, and every half a minute."""

    def __enter__(self) -> "Bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:24}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, TextColumn("{task.fields[remark]}"), console=self._console)
        self._stages = {}
        self._last: dict[str, float] = {}  # when a plain line was written of each stage
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        if not self._console.is_terminal:
            self._write(stage, done, total, remark)
            return
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=total, remark=remark)
        self._progress.update(self._stages[stage], completed=done, remark=remark)

    def say(self, line: str) -> None:
        if self._console.is_terminal:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _write(self, stage: str, done: int, total: int, remark: str) -> None:
        now = time.monotonic()
        if stage in self._last and done < total and now - self._last[stage] < SECONDS:
            return
        self._last[stage] = now
        minutes, seconds = divmod(int(now - self._began), 60)
        print(f"{minutes:3d}:{seconds:02d}  {stage}: {done} of {total}  {remark}".rstrip(), file=sys.stderr, flush=True)

"""What a person sees while a job runs."""


class Bar:
    """One progress bar a stage, on stderr."""

    def __enter__(self) -> "Bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:24}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, TextColumn("{task.fields[remark]}"), console=Console(stderr=True))
        self._stages = {}
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=total, remark=remark)
        self._progress.update(self._stages[stage], completed=done, remark=remark)

"""What is written of a trained network, for other programs and for people."""

import json
import shutil
from pathlib import Path

from nas.errors import UsageError, unwritable
from nas.report import command_lines
from nas.saved import checkpoint
from nas.saved.descriptions import DESCRIPTION, WEIGHTS
from nas.saved.descriptions import packed as packed_weights
from nas.store.query import Run
from nas.store.sql import Store


def export(
    store: Store,
    architecture: str,
    out: Path,
    run: Run | None = None,
    *,
    replace: bool = False,
    packed: bool = False,
) -> str:
    """Writes the newest stand-alone weights of an architecture, with its description, to a folder: of a run, or of any.
    `packed` writes those of one bit as bits (see `nas.saved.packed`).

    Returns the name of the run. Raises UsageError where there are none, where the folder holds another network already
    and `replace` is not asked for, or where `packed` is and there is nothing to pack.
    """
    files = store.artifacts(None if run is None else run.id, architecture, "weights")
    if not files:
        there = "" if run is None else f" in run={run.name!r}"
        tables = all(score["task"].startswith("table:") for score in store.show(architecture)["scores"])
        why = "a table has no weights" if tables else "only the best of a search is (--finalists)"
        words = f"retrain {architecture}{' --task TASK' if tables else ''}"
        raise UsageError(
            f"architecture={architecture!r} has not been trained by itself{there}: {why}; "
            f"{command_lines.ask(words, store.url)} trains it"
        )
    if not replace and any((out / name).exists() for name in (DESCRIPTION, WEIGHTS)):
        raise UsageError(f"out={str(out)!r} holds a network already: choose another folder, or --replace it")
    newest = Path(files[-1].path)
    _, description = checkpoint.read(newest)
    if checkpoint.digest(newest) != files[-1].sha256:
        raise UsageError(f"{newest} is not the file that the run wrote: its sha256 differs")
    arrays = None
    if packed:
        arrays, description = packed_weights(f"architecture={architecture!r}", newest), {**description, "packed": True}
    try:
        out.mkdir(parents=True, exist_ok=True)
        if arrays is None:
            shutil.copyfile(newest, out / WEIGHTS)
        else:
            checkpoint.write(out / WEIGHTS, arrays, description)
        (out / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise unwritable(f"out={str(out)!r}", error) from error
    return next(known.name for known in store.all_runs() if known.id == files[-1].run_id)

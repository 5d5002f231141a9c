"""What is written of a trained network: a folder for this library or for other programs, with a card for people."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas import interrupts, registry
from nas.config import named
from nas.errors import UsageError, one_line, unknown, unwritable
from nas.plain import write_whole
from nas.report import command_lines, draw
from nas.report.progress import Reporter, Silent
from nas.saved import as_onnx, as_stablehlo, card, checkpoint
from nas.saved.descriptions import DESCRIPTION, WEIGHTS, built, described, packed_arrays_of
from nas.saved.programs import Written
from nas.store.query import Run
from nas.store.sql import Store
from nas.unfinished import begun
from spaces.abilities import Drawable

if TYPE_CHECKING:
    from nas.saved.networks import Exported

FILES = {"jax": WEIGHTS, "onnx": as_onnx.NAME, "stablehlo": as_stablehlo.NAME}  # by format, beside the description
DRAWING = "architecture.svg"
BEGUN = ".nas-export-"  # how the name of a folder begins that is being filled
WRITTEN = (DESCRIPTION, *FILES.values(), card.NAME, card.CONFIG, DRAWING)


@dataclasses.dataclass(frozen=True)
class Source:
    """The weights of an architecture, and what describes them."""

    field: str  # how errors call the architecture
    description: dict[str, Any]
    run: Run  # whose weights they are
    file: Path | None = None  # that holds the arrays as they are to be written, or
    arrays: Mapping[str, np.ndarray] | None = None  # the arrays

    def read(self) -> dict[str, np.ndarray]:
        return dict(self.arrays) if self.arrays is not None else checkpoint.read(self.named)[0]

    @property
    def named(self) -> Path:
        """The file that errors name."""
        return self.file or Path(str(self.description["run"]))


def export(
    store: Store,
    architecture: str,
    out: Path,
    run: Run | None = None,
    *,
    replace: bool = False,
    packed: bool = False,
    form: str = "jax",
    reporter: Reporter | None = None,
) -> str:
    """Writes the newest stand-alone weights of an architecture to a folder: of a run, or of any. See `write`.

    Returns the name of the run. Raises UsageError where there are none.
    """
    check(out, replace=replace, packed=packed, form=form)
    source = trained_alone(store, architecture, run)
    if source is None:
        raise untrained(store, architecture, run)
    write(store, source, out, replace=replace, packed=packed, form=form, reporter=reporter)
    return source.run.name


def trained_alone(store: Store, architecture: str, run: Run | None = None) -> Source | None:
    """The newest weights of an architecture that was trained by itself, in a run or in any; None without such."""
    files = store.artifacts(None if run is None else run.id, architecture, "weights")
    if not files:
        return None
    newest = Path(files[-1].path)
    _, description = checkpoint.read(newest)
    if checkpoint.digest(newest) != files[-1].sha256:
        raise UsageError(f"{newest} is not the file that the run wrote: its sha256 differs")
    whose = next(known for known in store.all_runs() if known.id == files[-1].run_id)
    return Source(f"architecture={architecture!r}", description, whose, newest)


def untrained(store: Store, architecture: str, run: Run | None, hint: str = "") -> UsageError:
    """The error for an architecture without weights of its own."""
    there = "" if run is None else f" in run={run.name!r}"
    scores = store.show(architecture)["scores"]
    tables = bool(scores) and all(score["task"].startswith("table:") for score in scores)
    why = "a table has no weights" if tables else "only the best of a search is (--finalists)"
    words = f"retrain {architecture}{' --task TASK' if tables else ''}"
    trains = f"{command_lines.ask(words, store.url)} trains it"
    return UsageError(f"architecture={architecture!r} has not been trained by itself{there}: {why}; {trains}{hint}")


def check(out: Path, *, replace: bool, packed: bool, form: str) -> None:
    """Raises UsageError for what cannot be written so, or where a network is already."""
    if form not in FILES:
        raise unknown("format", form, FILES)
    if out.exists() and not out.is_dir():
        raise UsageError(f"out={str(out)!r} is there, and is no folder: choose another one")
    if packed and form != "jax":
        raise UsageError(f"packed=True is for --format jax: {form} has no words of bits; leave one of the two out")
    there = [name for name in WRITTEN if (out / name).exists()]
    ours = {DESCRIPTION, *FILES.values()} & set(there)
    if there and not ours:
        raise UsageError(f"out={str(out)!r} holds {', '.join(there)}, of no network: choose another folder")
    if there and not replace and DESCRIPTION not in there:
        raise UsageError(f"out={str(out)!r} holds an export that was cut short: --replace writes it again")
    if there and not replace:
        raise UsageError(f"out={str(out)!r} holds a network already: choose another folder, or --replace it")


def write(
    store: Store,
    source: Source,
    out: Path,
    *,
    replace: bool = False,
    packed: bool = False,
    form: str = "jax",
    reporter: Reporter | None = None,
) -> None:
    """The folder: description, weights or program, card and drawing. What is there of another network is replaced, if
    `replace` says so, when all that is new is written.

    `packed` writes weights of one bit as bits (see `nas.saved.packed`). Raises UsageError where there is nothing to
    pack, or where a program cannot be written, or does not compute what the network does.
    """
    reporter = reporter or Silent()
    description = {**source.description, "file": FILES[form]}
    space = _space(source, needed=form != "jax")
    if space is not None:
        size, channels = space.image_size, space.image_channels
        description["input"] = {"size": size, "channels": channels, "type": "uint8", "layout": "NHWC"}
    written: Written | None = None
    arrays = source.arrays
    if packed:
        arrays = packed_arrays_of(source.field, source.named, source.description, source.read())
        description["packed"] = True
    elif form != "jax":
        stage = f"Converting to {form}"  # which takes a minute where the network is large
        reporter.show(stage, 0, 1, "")
        model = _model(source)
        written = (
            as_onnx.serialised(model, _metadata(description)) if form == "onnx" else as_stablehlo.serialised(model)
        )
        description |= written.facts
        reporter.show(stage, 1, 1, "")
    drawing = _drawing(space, description)
    try:
        texts = card.files(store, source.run, description, DRAWING if drawing else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # it is not as this library writes one
        said = one_line(error)
        raise UsageError(f"{source.field}: what describes it in {source.named} is damaged: {said}") from error
    if drawing:
        texts[DRAWING] = drawing
    texts[DESCRIPTION] = json.dumps(description, indent=2) + "\n"
    try:
        with _filled(out, lambda: check(out, replace=replace, packed=packed, form=form)) as folder:
            if written is not None:
                write_whole(folder / FILES[form], written.data)
            elif arrays is not None:
                checkpoint.write(folder / WEIGHTS, dict(arrays), description)
            else:
                assert source.file is not None
                write_whole(folder / WEIGHTS, source.file.read_bytes())
            for name, text in texts.items():
                write_whole(folder / name, text.encode(errors="replace"))
    except OSError as error:
        raise unwritable(f"out={str(out)!r}", error) from error


@contextlib.contextmanager
def _filled(out: Path, check_again: Callable[[], None]) -> Iterator[Path]:
    """A folder in `out` that is to be filled, and whose files are those of `out` when the block has ended. Others of a
    network that lay there are gone then; where the block fails, nothing has changed."""
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with begun(out, BEGUN) as folder:
            yield folder
            interrupts.check()
            check_again()  # it may have taken minutes, in which somebody else has written there
            (out / DESCRIPTION).unlink(missing_ok=True)  # which says that there is a network: it comes last
            there = {name for name in WRITTEN if (folder / name).exists()}
            for name in set(WRITTEN) - there:
                (out / name).unlink(missing_ok=True)
            for name in sorted(there, key=lambda name: name == DESCRIPTION):
                os.replace(folder / name, out / name)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # there is something in it
                out.rmdir()


def _space(source: Source, *, needed: bool) -> Any:
    """The space that the description names; None where it is code that this process was not told to run."""
    try:
        return described(json.dumps(source.description).encode())[1]
    except (UsageError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError):
        if needed:
            raise
        return None


def _model(source: Source) -> "Exported":
    from nas.saved.networks import Exported

    description, space, encoding = described(json.dumps(source.description).encode())
    return Exported(description, space, built(source.named, source.named, description, space, encoding, source.read()))


def _metadata(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a program that runs the file wants to know, and no more."""
    fields = ("architecture", "description", "classes", "input", "mean", "std", "resize", "kind")
    space = named(description["space"], "space")[0]
    return {"space": space, **{name: description[name] for name in fields if name in description}}


def _drawing(space: Any, description: Mapping[str, Any]) -> str | None:
    if not isinstance(space, Drawable):
        return None
    with registry.guarded(f"space={type(space).__name__!r}: drawings"):  # it may be the user's own
        return draw.svg(space.drawings(np.asarray(description["encoding"])))

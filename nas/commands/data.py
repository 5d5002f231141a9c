"""`nas data check`: what a search would read of a task, and what to mend before it is searched on."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.config import Parser
from nas.errors import UsageError, unknown
from nas.plain import printable, shown, whole
from nas.report import output, progress
from nas.report.progress import Bar

if TYPE_CHECKING:
    from nas.tasks.survey import Survey

MOST_LISTED = 20  # of a kind, of what is to be mended
MANY_TIMES = 5  # from which on classes are called uneven
FEW = 20  # training images, of a class with fewer of which little can be learned


def main(argv: Sequence[str]) -> str:
    parser = flags()
    if argv and not argv[0].startswith("-") and argv[0] != "check":
        raise unknown("data command", argv[0], ["check"])
    options = parser.parse_args(argv)
    if options.task.partition(":")[0] == "table":
        raise UsageError(f"task={options.task!r} is a table, without images: nas table show FILE says what it holds")
    from nas.tasks import check_skips, reading
    from nas.tasks.survey import survey

    check_skips(options.task, options.skip_invalid)
    with Bar() as bar:
        asked = reading(
            options.task,
            data_dir=options.data_dir,
            image_size=options.image_size,
            resize=options.resize,
            split_seed=0,
            max_images=options.max_images,
            skip_invalid=False,
            heard=progress.reading(bar),
        )
        found = survey(asked, max_images=options.max_images, skips=options.skip_invalid)
    if options.format == "json":
        return json.dumps(found.as_data(), indent=2) + "\n"
    return _told(found, options.skip_invalid)


def _told(found: "Survey", skips: bool) -> str:
    task, parts = found.task, found.parts
    drawn = f"; {' and '.join(found.drawn)} drawn at random, the same each time" if found.drawn else ""
    counts = ", ".join(f"{n} {part}" for part, n in parts.items())
    classes = f", {len(task.classes)} classes" if task.classes else ""
    channels = {1: "grey", 3: "colour"}.get(task.image_channels, f"{task.image_channels} channels")
    lines = [
        ("task", f"{task.name} ({found.kind}{classes})"),
        ("images", f"{sum(parts.values())}: {counts}{drawn}"),
        ("a search sees", f"{task.image_size} x {task.image_size} pixels, {channels}"),
    ]
    sizes = found.found.found or {}
    if sizes:
        common = sorted(sizes, key=lambda size: -sizes[size])[:3]
        most = ", ".join(f"{width} x {height} ({sizes[width, height]})" for width, height in common)
        more = f" and {len(sizes) - len(common)} other sizes" if len(sizes) > len(common) else ""
        lines.append(("in files", f"{most}{more}"))
    if modes := found.found.modes:
        lines.append(("modes", ", ".join(f"{mode} ({n})" for mode, n in sorted(modes.items()))))
    if task.note:
        lines.append(("note", shown(task.note, 1000)))
    text = "".join(f"{name:14}  {value}\n" for name, value in lines)
    labels = found.labels
    rows = [{"label": name, **{part: labels[part].get(name) for part in parts}} for name in labels["train"]]
    text += "\n" + output.render(rows, ("label", *parts), "table")
    return text + "\n" + "\n".join(_to_mend(found, skips)) + "\n"


def _to_mend(found: "Survey", skips: bool) -> list[str]:
    """What a person should look at, as paragraphs."""
    said: list[str] = []
    if found.left_out:
        what = "cannot be used, and are left out" if skips else "cannot be used: a search refuses the first; with "
        what += "" if skips else "--skip-invalid it leaves them out"
        said.append(_list(f"Images or objects that {what} ({found.left_out}):", found.invalid))
    if found.contradicting:
        what = "Images that are there in several classes, of which one at most is right"
        said.append(_list(f"{what} ({len(found.contradicting)}):", [", ".join(each) for each in found.contradicting]))
    if found.across:
        what = "Images that lie in several parts, so that a test of them is none"
        said.append(_list(f"{what} ({len(found.across)}):", [", ".join(each) for each in found.across]))
    within = [", ".join(each) for each in found.equal if each not in (*found.across, *found.contradicting)]
    if within:
        drawn = ", and which parts that are drawn at random may share" if found.drawn else ""
        said.append(_list(f"Images that are there several times{drawn} ({len(within)}):", within))
    if found.imbalance is not None and found.imbalance >= MANY_TIMES:
        said.append(f"The most frequent class has {found.imbalance:.1f} times as many training images as the rarest.")
    if found.task.classes:
        few = [f"{name} ({n})" for name, n in found.labels["train"].items() if n < FEW]
        if few:
            said.append(_list(f"Classes of fewer than {FEW} training images:", few))
    return said or ["Nothing to mend was found."]


def _list(head: str, items: Sequence[str]) -> str:
    more = f"\n  and {len(items) - MOST_LISTED} more (--format json lists them)" if len(items) > MOST_LISTED else ""
    return "\n".join([head, *(f"  {shown(printable(each))}" for each in items[:MOST_LISTED])]) + more


def flags() -> argparse.ArgumentParser:
    parser = Parser(prog="nas data", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    text = "Read data as a search would, and say what they are and what is wrong with them."
    check = commands.add_parser("check", help=text, description=text, allow_abbrev=False)
    check.add_argument("task", metavar="TASK", help="such as folder:photos, npz:FILE or voc:DIR; see nas tasks")
    check.add_argument("--data-dir", metavar="DIR", help="the folder of the data, where the task needs one")
    check.add_argument("--image-size", metavar="N", type=whole, help="pixels of a side, as a search would be told")
    check.add_argument("--resize", metavar="HOW", default="crop", help="crop, pad or stretch [%(default)s]")
    check.add_argument(
        "--max-images",
        metavar="N",
        type=whole,
        help="read so many for training and validation, and as small a share for the test",
    )
    check.add_argument("--skip-invalid", action="store_true", help="as for a search that leaves out what is invalid")
    form = "table|json"
    check.add_argument("--format", choices=("table", "json"), default="table", metavar=form, help="[%(default)s]")
    return parser

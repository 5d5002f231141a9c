"""`nas latency`: what the networks of a space take on this machine, as a table that searches use."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from nas import config
from nas.errors import UsageError, unknown
from nas.plain import check_target, place, whole
from nas.report import output
from nas.report.progress import Bar

POOR = 0.8  # rank correlation, below which a table hardly tells which of two networks is quicker
RANGES = {"image_size": (1, 1024), "image_channels": (1, 1024), "num_classes": (0, 10**5)}
SIZES = {"image_size": "image-size", "image_channels": "channels", "num_classes": "classes"}


def main(argv: Sequence[str]) -> str:
    commands = {"measure": _measure}
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise unknown("latency command", argv[0], commands)
    parser = flags()
    options, rest = parser.parse_known_args(argv)
    return commands[options.command](options, rest)


def _measure(options: argparse.Namespace, rest: Sequence[str]) -> str:
    check_target(f"out={str(options.out)!r}", options.out)  # not only after the minutes that measuring takes
    _keep_to(options.device, options.threads)
    data, resume = config.parse(rest, space=options.space)
    if resume is not None:
        raise UsageError(f"resume={resume!r} is for run_search.py: a measurement begins anew")
    if odd := sorted(data.keys() - {"space"}):
        raise UsageError(f"{odd[0]}={data[odd[0]]!r} cannot be set: the networks are those of a space alone")

    from nas.job.subject import with_shape  # after what can be wrong with the line: these import jax
    from nas.latency.measuring import Plan, measured
    from nas.saved import latencies
    from nas.training.compilation import quick_start

    fields = {"device", "backend", "batch", "threads", "networks", "checked", "repeats", "seed"}
    plan = Plan(**{name: getattr(options, name) for name in fields})
    quick_start()
    name = config.names({"space": data["space"]})["space"]
    space = _sized(config.build_space(data["space"]), options, with_shape)
    with Bar() as bar:
        found = measured(space, plan, bar)
    latencies.write(options.out, name, space, found.latency, found.card)
    return _told(options, name, found.card)


def _sized(space: Any, options: argparse.Namespace, with_shape: Any) -> Any:
    """The space with the input and output that flags set. Raises UsageError for a space that has not these fields."""
    given = {name: getattr(options, name) for name in SIZES}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        low, high = RANGES[name]
        if not low <= value <= high:
            raise UsageError(f"{SIZES[name]}={value} must lie in {low}..{high}")
    try:
        space = with_shape(space, given)
    except ValueError as error:
        raise UsageError(f"space={options.space!r}: {error}") from error
    for name in SIZES:
        if not isinstance(getattr(space, name, None), int):
            raise UsageError(f"space={options.space!r} has no networks to time: no field {name} says what they take")
    return space


def _keep_to(device: str, threads: int | None) -> None:
    """Gives this process the device and so many cores, before JAX asks what there is: layers have a form for CPUs.
    Raises UsageError where it cannot be."""
    if device == "cpu":
        import jax

        jax.config.update("jax_platforms", "cpu")
    if threads is None:
        return
    if not hasattr(os, "sched_setaffinity") or device != "cpu":
        raise UsageError(f"threads={threads} cannot be set: it is for --device cpu, on Linux")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise UsageError(f"threads={threads} must lie in 1..{len(cores)}, the cores of this process")
    os.sched_setaffinity(0, cores[-threads:])


def _told(options: argparse.Namespace, name: str, card: dict[str, Any]) -> str:
    checked, low, high = card["checked"], *card["range_ms"]
    row = {"out": str(options.out), "space": name, "device": card["device_kind"], "fastest_ms": low, "slowest_ms": high}
    row |= {"networks": card["networks"], "checked": checked["networks"], "spearman": round(checked["spearman"], 3)}
    row |= {"relative_error": round(checked["mean_relative_error"], 4), "spread": round(card["spread"], 4)}
    row |= {"repeated_spearman": round(card["repeated"]["spearman"], 3)}
    text = output.render([row], row, options.format)
    if checked["spearman"] < POOR and options.format == "table":
        text += (
            "\nThe table ranks networks poorly: measure more of them (--networks), more often (--repeats), or on an "
        )
        text += "idle machine; repeated_spearman is how far two measurements of the same networks agree.\n"
    return text


def flags() -> config.Parser:
    parser = config.Parser("nas latency", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    text = "Times random networks of a space, fits a table of what each choice adds, and checks it against others."
    more = "Other flags are --space.FIELD of the space. --latency FILE of a search makes latency_ms a cost."
    added = commands.add_parser("measure", help=text, description=text, epilog=more, allow_abbrev=False)
    added.add_argument("--space", metavar="NAME", required=True, help="such as shufflenet:tiny or nasbench201")
    for name, flag in SIZES.items():
        words = name.replace("_", " ").replace("num ", "number of ")
        added.add_argument(f"--{flag}", dest=name, metavar="N", type=whole, help=f"{words} (default: the space's)")
    added.add_argument("--device", metavar="cpu|gpu", default="cpu", help="(default: %(default)s)")
    batch = "images at once: latency_ms is of all of them (default: %(default)s)"
    added.add_argument("--batch", metavar="N", type=whole, default=1, help=batch)
    threads = "cores of a CPU that it uses (default: all), on Linux; with 1 its processor time is measured, "
    threads += "not the clock on the wall"
    added.add_argument("--threads", metavar="N", type=whole, help=threads)
    backend = "what runs networks: jax, or onnxruntime, which runs them as ONNX (default: %(default)s)"
    added.add_argument("--backend", metavar="NAME", default="jax", help=backend)
    fit = "to fit on, each of which is compiled (default: %(default)s)"
    added.add_argument("--networks", metavar="N", type=whole, default=60, help=fit)
    added.add_argument("--checked", metavar="N", type=whole, default=30, help="others to check (default: %(default)s)")
    repeats = "how often all are timed, in turns (default: %(default)s)"
    added.add_argument("--repeats", metavar="N", type=whole, default=50, help=repeats)
    added.add_argument("--seed", metavar="N", type=whole, default=0, help="of the networks (default: %(default)s)")
    added.add_argument("--out", metavar="FILE", type=place, required=True, help="the table to write, a JSON")
    form = "|".join(output.FORMATS)
    added.add_argument("--format", type=output.known_format, default="table", metavar=form)
    return parser

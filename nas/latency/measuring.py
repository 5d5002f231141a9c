"""A table of the latencies of a space: whole networks are timed, a table is fitted to some and checked against others.

Every space is measured so, whether its choices follow one another or are edges of cells: what is fused with what, and
how blocks wait for memory, is in the time of whole networks and in no sum of blocks that were timed alone.
"""

import dataclasses
import datetime
import importlib.metadata
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nas
from nas.errors import UsageError
from nas.interrupts import check
from nas.latency.backends import backend, cores, device
from nas.latency.fitting import Agreement, agreement, fitted
from nas.latency.timing import Times, timed
from nas.report.progress import Reporter
from nas.seeds import MOST
from spaces.base import Space, sample
from spaces.latency import NAME, Latency, nothing, places, sizes

FEWEST = 4  # networks to fit on, and to check against
TRIES = 4  # rows that are drawn for each network: equal networks are measured once


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a space is measured. Raises UsageError for what cannot be."""

    device: str = "cpu"
    backend: str = "jax"
    batch: int = 1
    threads: int | None = None  # those that the process has been given, None for all
    networks: int = 60  # to fit on
    checked: int = 30  # others, to check against
    repeats: int = 50  # rounds
    seed: int = 0

    def __post_init__(self):
        ranges = {"batch": (1, 10**4), "networks": (FEWEST, 10**4), "checked": (FEWEST, 10**4), "repeats": (2, 10**4)}
        ranges["seed"] = (0, MOST)
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name}={getattr(self, name)} must lie in {low}..{high}")

    @property
    def clock(self) -> str:
        """See `timing`: with one thread of a CPU the core's."""
        return "core" if (self.device, self.threads) == ("cpu", 1) else "wall"


@dataclasses.dataclass(frozen=True)
class Measured:
    latency: Latency
    card: dict[str, Any]  # on what it was measured, how, and how well it tells


def measured(space: Any, plan: Plan, reporter: Reporter) -> Measured:
    """The table of a space on this machine. Raises UsageError where there are too few networks."""
    where, make = device(plan.device), backend(plan.backend)
    rows = networks(space, plan)
    draw = np.random.default_rng(plan.seed)
    shape = (plan.batch, space.image_size, space.image_size, space.image_channels)
    images = draw.random(shape, np.float32)
    programs = []
    for i, row in enumerate(rows):
        check()
        reporter.show("Compiling networks", i, len(rows), "")
        programs.append(make(space.build(row, jax.random.key(0)), images, where))
    reporter.show("Compiling networks", len(rows), len(rows), "")

    def shown(done: int) -> None:
        reporter.show("Timing networks", done, plan.repeats, f"{len(rows)} of them in each round")

    times = timed(programs, plan.repeats, plan.clock, draw, shown)
    found = np.asarray(places(space, jnp.asarray(rows)))
    count = len(rows) * plan.networks // (plan.networks + plan.checked)
    count = min(max(count, FEWEST), len(rows) - FEWEST)
    latency = fitted(found[:count], times.medians[:count], sizes(space), nothing(space))
    told = np.asarray(latency(space, jnp.asarray(rows[count:]))[NAME], np.float64)
    checked = agreement(told, times.medians[count:])
    return Measured(latency, _machine(where, plan) | _quality(times, count, checked))


def networks(space: Space, plan: Plan) -> np.ndarray:
    """Random encodings of different networks, those to fit on first. Of a space that has fewer there are all, in the
    same proportion."""
    wanted = plan.networks + plan.checked
    rows = np.asarray(space.canonical(sample(space, jax.random.key(plan.seed), TRIES * wanted)))
    _, first = np.unique(rows, axis=0, return_index=True)
    rows = rows[np.sort(first)][:wanted]
    if len(rows) < 2 * FEWEST:
        raise UsageError(f"space={type(space).__name__!r} has {len(rows)} networks; allowed: {2 * FEWEST} or more")
    return rows


def _machine(where: Any, plan: Plan) -> dict[str, Any]:
    """What it was measured on, and by which versions."""
    return {
        "device": plan.device,
        "device_kind": where.device_kind,
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "threads": plan.threads or cores(),
        "backend": plan.backend,
        "batch": plan.batch,
        "clock": plan.clock,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
            "nas-engine": nas.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The name of this machine's processor, as far as the system says it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read(2**16).splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _quality(times: Times, count: int, checked: Agreement) -> dict[str, Any]:
    """How exactly networks were timed, `repeated` being one half of the rounds told by the other; and how well the
    table tells those that it was not fitted to."""
    medians, again = times.medians, agreement(*times.halves)
    return {
        "repeats": len(times.rounds),
        "networks": count,
        "range_ms": [round(float(medians.min()), 6), round(float(medians.max()), 6)],
        "spread": round(times.spread, 6),
        "repeated": {"spearman": again.spearman, "mean_relative_error": again.mean_relative_error},
        "checked": checked._asdict(),
    }

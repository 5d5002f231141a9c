"""How long programs take, on a machine that does other work too.

Programs take turns: a round calls each of them a few times, in an order of its own, and keeps the least. Of all rounds
it is the median. So what slows the machine down for a while slows all programs alike. With one thread of a CPU it is
the time in which the core was at work for them, to which another program on the same core adds nothing. Elsewhere it is
the clock's.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nas.interrupts import check

WARM = 3  # calls before the first that counts
BURST = 3  # calls in a turn, of which the quickest counts
Program = Callable[[], object]  # which returns when its answer is there
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "core": time.process_time}


class Times(NamedTuple):
    rounds: Float[np.ndarray, "rounds programs"]  # milliseconds

    @property
    def medians(self) -> Float[np.ndarray, "programs"]:
        return np.median(self.rounds, 0)

    @property
    def spread(self) -> float:
        """Half of the rounds of a program are within so large a share of its median, the median over programs."""
        low, high = np.quantile(self.rounds, (0.25, 0.75), axis=0)
        return float(np.median((high - low) / self.medians))

    @property
    def halves(self) -> tuple[Float[np.ndarray, "programs"], Float[np.ndarray, "programs"]]:
        """The medians of every other round: how far they agree is what measuring again would give."""
        return np.median(self.rounds[::2], 0), np.median(self.rounds[1::2], 0)


def timed(
    programs: Sequence[Program],
    rounds: int,
    clock: str,
    draw: np.random.Generator,
    on_round: Callable[[int], None] = lambda done: None,
) -> Times:
    """The times of all programs, each of so many rounds."""
    now, found = CLOCKS[clock], np.zeros((rounds, len(programs)))
    for program in programs:
        for _ in range(WARM):
            program()
    for number, row in enumerate(found):
        for i in draw.permutation(len(programs)):
            check()
            row[i] = min(_once(programs[i], now) for _ in range(BURST))
        on_round(number + 1)
    return Times(found * 1000)


def _once(program: Program, now: Callable[[], float]) -> float:
    start = now()
    program()
    return now() - start

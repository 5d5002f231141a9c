"""The settings of `strategies.prescreened`, without JAX, which a command line need not import to name them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Screening:
    """How a predictor screens proposals (`--prescreen`)."""

    candidates: int = 200
    """Proposals of which a batch is chosen."""
    initial: int = 20
    """Evaluations before the first fit; with a saved predictor, none."""
    batch_size: int = 5
    """Architectures asked for between two fits, of a strategy that asks for one at a time."""
    optimism: float = 1.0
    """Standard deviations by which a prediction is lowered."""
    memory: int = 512
    """Most observations that are fitted; of more, the best are."""

    def __post_init__(self):
        for name, least in (("candidates", 1), ("initial", 2), ("batch_size", 1), ("optimism", 0), ("memory", 2)):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")

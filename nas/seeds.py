"""Which numbers are seeds: those of 32 bits. Of others JAX keeps the lower 32 bits, and so repeats a smaller seed."""

MOST = 2**32 - 1


def check_seed(seed: int, field: str = "seed") -> None:
    """Raises ValueError that names the field."""
    if not 0 <= seed <= MOST:
        raise ValueError(f"{field}={seed} must lie in 0..{MOST}")

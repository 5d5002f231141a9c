"""Which numbers are seeds: those of 32 bits. JAX would keep the lower 32 bits of others, and so repeat a smaller seed."""

MOST = 2**32 - 1


def check_seed(seed: int, field: str = "seed") -> None:
    """Raises ValueError that names the field."""
    if not 0 <= seed <= MOST:
        raise ValueError(f"{field}={seed} must lie in 0..{MOST}")

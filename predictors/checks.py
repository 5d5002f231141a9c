"""What the fields of predictors are held to when they are made."""

from typing import Any

from nas.seeds import check_seed


def check_network(predictor: Any, **shares: float) -> None:
    """Raises ValueError that names the first field of a trained network's settings that makes no sense."""
    for name in ("hidden", "members", "steps", "batch_size"):
        if hasattr(predictor, name) and getattr(predictor, name) < 1:
            raise ValueError(f"{name}={getattr(predictor, name)} must be at least 1")
    if not predictor.learning_rate > 0:
        raise ValueError(f"learning_rate={predictor.learning_rate} must be above 0")
    if not predictor.weight_decay >= 0:
        raise ValueError(f"weight_decay={predictor.weight_decay} must be at least 0")
    check_seed(predictor.seed)
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must lie in 0..1")

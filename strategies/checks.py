"""What the fields of every strategy are held to when it is made."""


def at_least(strategy: object, **least: int) -> None:
    """Raises ValueError that names the first of these fields which is below its least value."""
    for name, low in least.items():
        if not getattr(strategy, name) >= low:
            raise ValueError(f"{name}={getattr(strategy, name)} must be at least {low}")

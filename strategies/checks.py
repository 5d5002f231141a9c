"""What the fields of every strategy are held to when it is made."""


def at_least(strategy: object, **least: int) -> None:
    """Raises ValueError that names the first of these fields which is below its least value. None is not looked at."""
    for name, low in least.items():
        value = getattr(strategy, name)
        if value is not None and not value >= low:
            raise ValueError(f"{name}={value} must be at least {low}")

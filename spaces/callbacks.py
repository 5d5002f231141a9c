"""Code of the user's own that compiled programs call back: what it raises there is raised when they have ended.

JAX would print it, and raise another exception that tells it in many lines.
"""

_failed: list[BaseException] = []  # since somebody asked


def keep(error: BaseException) -> None:
    """Of a function that was called back, and has given NaN in place of its numbers."""
    _failed.append(error)


def check() -> None:
    """Raises the first exception that was kept, once the program has ended: NaN is not what it was asked for."""
    if _failed:
        first = _failed[0]
        _failed.clear()
        raise first

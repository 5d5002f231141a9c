"""What of a user's data is invalid: the first is an error that names it, or all of it is left out and counted."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from nas.errors import UsageError
from nas.plain import shown

MOST_KEPT = 1000  # errors


class _Refused(UsageError):
    """What is invalid, where that is not to be left out. It says already how it could be."""


class Invalid:
    """What was left out as invalid, unless that is not to be done and the first is an error."""

    def __init__(self, skip: bool, can_skip: bool = True):
        self._skip, self._can_skip, self._counts = skip, can_skip, Counter[str]()
        self.errors: list[str] = []  # why each was left out; no more than the first thousand

    @contextlib.contextmanager
    def left_out(self, what: Literal["object", "image"]) -> Iterator[None]:
        """A block that reads one image or object, which ends where it raises UsageError."""
        try:
            yield
        except _Refused:
            raise
        except UsageError as error:
            if not self._skip:
                hint = f"; --skip-invalid leaves out such {what}s" if self._can_skip else ""
                raise _Refused(f"{error}{hint}") from error
            if len(self.errors) < MOST_KEPT:
                self.errors.append(str(error))
            self._counts[what] += 1

    @property
    def count(self) -> int:
        return self._counts.total()

    def said(self, name: str) -> str | None:
        """How much was left out of the task of this name, in one line."""
        if not self._counts:
            return None
        counts = [f"{n} {what}{'s' * (n > 1)}" for what, n in sorted(self._counts.items(), reverse=True)]
        were = "were" if self._counts.total() > 1 else "was"
        return f"{name}: {' and '.join(counts)} {were} invalid and left out, the first: {shown(self.errors[0])}"

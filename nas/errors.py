"""The errors that a user can act on: one line each, and the exit status that goes with it."""

import difflib
import errno
import os
import sys
from collections.abc import Iterable


class UsageError(Exception):
    """What the user gave cannot be used. The line names the field, the value and what is allowed. Exit status 2."""

    exit_status = 2


class DamagedError(UsageError):
    """What a store says was altered by somebody else: no command can go on with it."""


class RunError(Exception):
    """The run itself failed, through no fault of its arguments. Exit status 1."""

    exit_status = 1


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM, in the middle of something that can be gone on with; the line says how. Exit status 130."""


class Answered(SystemExit):
    """A parser has printed what --help asked for. Exit status 0."""


def one_line(error: object) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())


def no_device(error: Exception) -> UsageError:
    """The error where JAX finds no device of the kind that JAX_PLATFORMS asks for, which shows as anything. Where it
    finds one, what was raised is raised again."""
    asked = os.environ.get("JAX_PLATFORMS")
    if not asked or "jax" not in sys.modules:
        raise error
    try:
        sys.modules["jax"].devices()
    except Exception:  # of JAX, which has tried before
        return UsageError(f"JAX_PLATFORMS={asked!r} must name devices that JAX finds on this machine, such as cpu")
    raise error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def unwritable(place: object, error: OSError, todo: str = "choose another folder") -> UsageError | RunError:
    """The error for a file or folder that cannot be written: of the run where the disk is full, else of usage. `todo`
    is what helps besides."""
    if error.errno in FULL:
        return RunError(f"{place} cannot be written: {error.strerror}; free some space, or {todo}")
    return UsageError(f"{place} cannot be written: {error.strerror}; {todo}")


MANY = 30  # names, of which no more than a near one is said


def unknown(field: str, value: object, allowed: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `allowed`, with the nearest that is; of many, with that alone."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    said = field if field.endswith(f" {value}") else f"{field}={value!r}"  # `field trails` has its value in it
    if near and len(allowed) > MANY:
        return UsageError(f"{said} is not known; did you mean {near[0]!r}? --help lists all")
    hint = f"; did you mean {near[0]!r}?" if near else ""
    choices = f"is not one of {', '.join(allowed)}" if allowed else "is not known: there are none"
    return UsageError(f"{said} {choices}{hint}")

"""Ctrl-C and SIGTERM: a job hears both as KeyboardInterrupt, and what must be recorded then is."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, is heard as Ctrl-C is."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt("SIGTERM")

    with _handled({signal.SIGTERM: interrupt}):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A second signal does not keep the first from being recorded."""
    with _handled(dict.fromkeys(SIGNALS, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What a library sets in place of our handlers is taken back."""
    with _handled({which: signal.getsignal(which) for which in SIGNALS}):
        yield


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
        yield
        return
    before = {which: signal.signal(which, handler) for which, handler in handlers.items()}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)

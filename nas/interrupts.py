"""Ctrl-C and SIGTERM: a job hears both as KeyboardInterrupt, and what must be recorded then is."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CTRL_C = "Ctrl-C"
AT_ONCE = 2.0  # seconds
SOON = 0.05
IMPORT_SECONDS = 10.0  # how long a library that is being imported is left in peace
INTERRUPTED = 130  # the exit status
LOSES = ("__del__", "_xla_gc_callback")  # in destructors, and JAX's callback of the collector
IMPORTS = ("_find_and_load",)  # of Python's import
_came: list[str] = []  # the signals since `heard` began
_is_alone = False  # whether the process ends without what libraries do at the end
_leaves = False  # whether `leave` was called
_last = -AT_ONCE  # when a signal was heard
_within = 0  # how many `heard` are within one another
_holds = 0  # how many have asked to be left in peace
_stop: Exception | None = None  # why what takes long has to end


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Ctrl-C, and SIGTERM by which schedulers end a job, are KeyboardInterrupt. Those that follow at once are part of
    it; a later one is another.

    An exception that arises in a destructor or a callback of some library is lost, and one in the midst of an import
    is made into others, or aborts the process: there the signal comes again in a moment, and `check` raises what came.
    """
    global _last, _within
    _last = _last if _within else -AT_ONCE
    _within += 1
    first, say = None, sys.unraisablehook

    def lose(unraisable: Any) -> None:
        global _last
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and _came:  # in one that `LOSES` does not name
            _last = -AT_ONCE
            _send_again(signal.SIGINT if _came[0] == CTRL_C else signal.SIGTERM)
        else:
            say(unraisable)

    def hear(which: int, frame: FrameType | None) -> None:
        global _last
        nonlocal first
        _came.append(CTRL_C if which == signal.SIGINT else signal.Signals(which).name)
        now = time.monotonic()
        if now - _last < AT_ONCE or _holds:
            return
        first = now if first is None else first
        if _is_in(frame, LOSES) or (now - first < IMPORT_SECONDS and _is_in(frame, IMPORTS)):
            _send_again(which)
            return
        _last, first = time.monotonic(), None
        check()

    # Who started the process may want it deaf to Ctrl-C, as a shell does in the background.
    deaf = {which for which in SIGNALS if signal.getsignal(which) is signal.SIG_IGN}
    sys.unraisablehook = lose
    try:
        with _handled({which: hear for which in SIGNALS if which not in deaf}):
            yield
    except ImportError as error:
        if _came:  # while a library was imported, which has made this of it
            raise KeyboardInterrupt(_came[0]) from error
        raise
    finally:
        sys.unraisablehook = say
        _came.clear()
        _within -= 1


def _is_in(frame: FrameType | None, functions: tuple[str, ...]) -> bool:
    """Whether one of the functions is being called."""
    while frame is not None:
        if frame.f_code.co_name in functions:
            return True
        frame = frame.f_back
    return False


def _send_again(which: int) -> None:
    def send() -> None:
        if _came:  # nobody has stopped listening meanwhile
            os.kill(os.getpid(), which)

    timer = threading.Timer(SOON, send)
    timer.daemon = True
    timer.start()


def check() -> None:
    """Raises KeyboardInterrupt where a signal came, and what `stoppable` was told: called at each step of what takes
    long."""
    if threading.current_thread() is not threading.main_thread():
        return
    if _came:
        raise KeyboardInterrupt(_came[0])
    if _stop is not None:
        raise _stop


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[Exception], None]]:
    """A function by which another thread ends what is done here, with an error that the next `check` raises."""
    global _stop

    def stop(error: Exception) -> None:
        global _stop
        _stop = error

    try:
        yield stop
    finally:
        _stop = None


def reason(interrupt: KeyboardInterrupt) -> str:
    """What interrupted: a library may have raised it in its own words."""
    return _came[0] if _came else str(interrupt) or CTRL_C


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A signal is heard after what is done here."""
    global _holds
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
    check()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A second signal does not keep the first from being recorded."""
    with _handled(dict.fromkeys(SIGNALS, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What a library sets in place of our handlers is taken back; where its own ended the process, it is ours to."""
    try:
        with _handled({which: signal.getsignal(which) for which in SIGNALS}):
            yield
    except SystemExit as ended:
        raise KeyboardInterrupt("SIGTERM") from ended


def abandon() -> None:
    """What libraries would wait for when this process ends will not come: `leave` does not let them."""
    global _is_alone
    _is_alone = True


def run(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the status of a command, which is interrupted even while `main` imports it."""
    try:
        with heard():
            status = main()
    except KeyboardInterrupt:
        status = INTERRUPTED
    leave(status)


def leave(status: int) -> NoReturn:
    """Ends the process. One that was interrupted is not interrupted once more while it ends; one that is done ends at
    once then, and at last is deaf."""
    global _leaves
    _leaves = True
    for which in SIGNALS:
        signal.signal(which, signal.SIG_IGN if status == INTERRUPTED else _end)
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            # What could not be written is still in the buffer, and Python would try again, and end with 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    # Threads of XLA may still be at work on what was interrupted: the end of Python would take from them what they use.
    if _is_alone or (status == INTERRUPTED and "jax" in sys.modules):
        os._exit(status)
    sys.exit(status)


def _end(*_: object) -> NoReturn:
    os._exit(INTERRUPTED)


@atexit.register  # before all others, so it comes after them
def _become_deaf() -> None:
    """Python takes handlers away before it is gone: a signal would kill it then, with the status of a failure."""
    if _leaves:
        for which in SIGNALS:
            signal.signal(which, signal.SIG_IGN)


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

"""The processes of one training, on one host or many: each has devices of its own, and all take each step together.

They find one another as JAX's users know it (`jax.distributed.initialize`): by the address of the first process, how
many there are, and which one this is; SLURM, Open MPI and clouds are detected by JAX. The first has the store and says
what is trained. The others hear it, train their part of each batch, and end with the training.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nas.errors import RunError, UsageError, one_line
from nas.interrupts import abandon, check

FIELDS = ("coordinator_address", "num_processes", "process_id")
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]{1,255}):(\d{1,5})")
ORDER, ANSWER, BEAT = "nas/order", "nas/answer", "nas/beat"  # names under which processes leave word for one another
MEET_SECONDS = 300.0  # for all processes to come
MUCH_LONGER = 3600  # seconds that JAX is told: it ends the process
BEAT_SECONDS = 5.0  # from one sign of life of a process to the next
SILENT_SECONDS = 100.0  # after which one that gives none is taken for dead
SAY_SECONDS = 10.0  # after which it is said that others are waited for
MOST_SAID = 200  # letters of what libraries say
Say = Callable[[str], None]
BROKEN = ("gloo", "nccl", "coordination", "unavailable", "connection")  # what errors are called when a process ended


@dataclasses.dataclass
class _Group:
    """What this process knows of the others, if there are any."""

    number: int = 0
    count: int = 1
    client: Any = None
    has_told: bool = False
    trains: bool = False  # whether a step is now one of all processes


_group = _Group()


def count() -> int:
    """How many processes there are."""
    return _group.count


def number() -> int:
    """Which of them this one is."""
    return _group.number


def trains() -> bool:
    """Whether what is computed now is computed by all processes together."""
    return _group.trains


@contextlib.contextmanager
def joined(data: Mapping[str, Any], say: Say = lambda said: None, complain: Say = lambda said: None) -> Iterator[int]:
    """Joins the other processes, if the data of a job name any; gives the number of this one.

    `say` hears that they are waited for; `complain`, in another thread, why this process ends where one of them is
    silent. Raises UsageError, and RunError where they cannot be reached.
    """
    given = asked(data)
    if given is None:
        yield 0
        return
    _join(*given, say)
    _watch(complain)
    try:
        yield _group.number
        _dismiss("there was nothing left to train")
    except BaseException as error:
        if _group.client is not None and (_group.number or _group.has_told):
            abandon()
        else:
            _dismiss(str(error) or type(error).__name__)
        raise


def asked(data: Mapping[str, Any]) -> tuple[str, int | None, int | None] | None:
    """Address, count and number, if there is to be more than one process. Raises UsageError."""
    address, *numbers = (data.get(name) for name in FIELDS)
    if address is None:
        for name in FIELDS[1:]:
            if data.get(name) is not None:
                raise UsageError(f"{name}={data[name]!r} needs --coordinator-address HOST:PORT, that of process 0")
        return None
    many, number = (_whole(name, value) for name, value in zip(FIELDS[1:], numbers, strict=True))
    if address == "auto":
        return address, many, number
    if not isinstance(address, str) or not ADDRESS.fullmatch(address):
        raise UsageError(f"coordinator_address={address!r} must be HOST:PORT, that of process 0, or auto")
    if many is None or number is None:
        raise UsageError(f"coordinator_address={address!r} needs --num-processes and --process-id, or must be auto")
    if not 0 <= number < many:
        raise UsageError(f"process_id={number} must be in 0..{many - 1}, less than num_processes={many}")
    return None if many == 1 else (address, many, number)


def _whole(name: str, value: Any) -> int | None:
    try:
        return None if value is None else int(str(value))
    except ValueError:
        raise UsageError(f"{name}={value!r} must be a whole number") from None


def _join(address: str, many: int | None, number: int | None, say: Callable[[str], None]) -> None:
    import jax

    place = None if address == "auto" else address
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself
    try:
        longer: dict[str, Any] = {"initialization_timeout": MUCH_LONGER, "heartbeat_timeout_seconds": MUCH_LONGER}
        _meet(lambda: jax.distributed.initialize(place, many, number, **longer), address, say)
    except ValueError as error:  # of JAX's detection
        raise UsageError(f"coordinator_address={address!r}: {one_line(error)[:MOST_SAID]}") from error
    except RuntimeError as error:
        raise RunError(
            f"coordinator_address={address!r}: the processes did not meet: {one_line(error)[:MOST_SAID]}"
        ) from error
    _group.number, _group.count = jax.process_index(), jax.process_count()
    _group.client = jax._src.distributed.global_state.client  # pyright: ignore


def _watch(complain: Say) -> None:
    """Ends this process where another one gives no sign of life for long: one that was stopped, or whose machine is
    gone, closes no connection, and what all compute together would wait for it for ever."""
    client, beats, silent = _group.client, {}, dict.fromkeys(set(range(_group.count)) - {_group.number}, 0.0)

    def beat() -> None:
        for tick in itertools.count():
            if _group.client is not client:
                return
            with contextlib.suppress(Exception):  # the first process is gone
                client.key_value_set(f"{BEAT}/{_group.number}", str(tick), True)
            for other in silent:
                with contextlib.suppress(Exception):  # or this one has not begun yet
                    beats[other] = client.key_value_try_get(f"{BEAT}/{other}")
            time.sleep(BEAT_SECONDS)

    def watch() -> None:
        heard: dict[int, str] = {}
        while _group.client is client:
            time.sleep(1.0)
            for other in silent:
                # By steps, not by the clock: where this process was stopped itself, the others may be well.
                silent[other] = silent[other] + 1.0 if heard.get(other) == beats.get(other) else 0.0
                if silent[other] > SILENT_SECONDS and _group.client is client:
                    said = f"process {other} has given no sign of life for {SILENT_SECONDS:.0f} s"
                    try:
                        complain(f"{said}; --resume goes on with the run")
                    finally:
                        os._exit(RunError.exit_status)  # the main thread hears nothing while it waits
            heard.update(beats)

    for work in (beat, watch):
        threading.Thread(target=work, daemon=True).start()


def _meet(meet: Callable[[], None], address: str, say: Callable[[str], None]) -> None:
    """Does it in a thread: what waits for the others hears no signal, and ends the process where they do not come."""
    errors: list[BaseException] = []

    def met() -> None:
        try:
            meet()
        except BaseException as error:
            errors.append(error)

    thread, began, is_said = threading.Thread(target=met, daemon=True), time.monotonic(), False
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        check()
        waited = time.monotonic() - began
        if waited > SAY_SECONDS and not is_said:
            is_said = True
            say(f"Waiting for the other processes at {address}.")
        if waited > MEET_SECONDS:
            abandon()
            raise RunError(f"coordinator_address={address!r}: some process has not come within {MEET_SECONDS:.0f} s")
    if errors:
        raise errors[0]


def tell(order: Mapping[str, Any]) -> None:
    """By the first process: what is to be trained. Waits until all others have read it. Raises UsageError with what one
    of them says against it."""
    _group.has_told = True
    _group.client.key_value_set(ORDER, json.dumps(order))
    for number in range(1, _group.count):
        if said := _read(f"{ANSWER}/{number}"):
            raise UsageError(f"process {number}: {said}")


def told() -> dict[str, Any]:
    """By the others: what is to be trained. Raises RunError where nothing is."""
    order = json.loads(_read(ORDER))
    if "nothing" in order:
        _shut_down()
        raise RunError(f"process 0 trains nothing: {order['nothing']}")
    return order


def answer(said: str) -> None:
    """By the others: what is wrong with an order; nothing, where they are ready."""
    _group.client.key_value_set(f"{ANSWER}/{_group.number}", said)


def _read(name: str) -> str:
    while True:
        check()
        try:
            return _group.client.blocking_key_value_get(name, 1000)
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise _ended(error) from error


def _dismiss(reason: str) -> None:
    """By the first process, where it has told the others nothing."""
    if _group.client is not None and not _group.number and not _group.has_told:
        _group.has_told = True
        _group.client.key_value_set(ORDER, json.dumps({"nothing": reason}))
        _shut_down()


def _shut_down() -> None:
    """Each process is free when all have come here."""
    import jax

    _group.client = None
    try:
        jax.distributed.shutdown()
    except Exception as error:
        abandon()
        raise _ended(error) from error


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What is computed in it, all processes compute: the same programs in the same order. Then they part. Raises
    RunError where one of them ends."""
    if _group.client is None:
        yield
        return
    _group.trains = True
    try:
        yield
    except (UsageError, RunError):
        raise
    except Exception as error:
        if any(word in str(error).lower() for word in BROKEN):
            raise _ended(error) from error
        raise
    finally:
        _group.trains = False
    _shut_down()


def agreed(tree: Any) -> Any:
    """The arrays that the first process has, whatever the others have of these shapes."""
    if not _group.trains:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def _ended(error: Exception) -> RunError:
    """The error where another process is gone, with what libraries say of it."""
    return RunError(f"another process has ended: {one_line(error)[:MOST_SAID]}")

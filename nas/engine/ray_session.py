"""A session of Ray: one of our own on this machine, or a cluster that is joined; what it has, and whether it lives."""

import contextlib
import os
import secrets
import socket
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

# `uv run` would make Ray build a new environment for each worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import exceptions

from nas.errors import RunError, UsageError, one_line
from nas.interrupts import abandon, kept

MOST_PATH = 103  # bytes of the path of a socket, on every system
SOCKET = "session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # as Ray calls the longest of its own
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # by which users say what Ray lets in
TOKEN = secrets.token_hex(32)  # what processes of our own sessions know each other by
HEARD_SECONDS = 10.0  # for the head of a cluster to answer
_started = False  # whether the session is ours to end


def join(workers: int, gpus: float | None = None, address: str | None = None) -> float:
    """What `start_ray` does; then how much of a GPU each worker has. Raises RunError where no machine has that."""
    start_ray(workers, address)
    each = gpus_each(workers) if gpus is None else gpus
    check_room(each)
    return each


def start_ray(workers: int, address: str | None = None) -> None:
    """Starts Ray on this machine, or joins the cluster at the address; a session that the caller has is used as it is.

    Without an address it is a cluster of its own, whatever RAY_ADDRESS says and whatever runs on the machine.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    # Where a daemon ends, this prints the end of its log; what it means is said by `check_alive`.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None  # pyright: ignore
    global _started
    if address is not None:
        try:
            _check_answers(address)
            _forget_token()
            with kept():
                ray.init(address, **quiet)
        except ValueError as error:
            raise UsageError(f"ray_address={address!r} must be auto, HOST:PORT or ray://HOST:PORT: {error}") from error
        except (OSError, RuntimeError, exceptions.RayError) as error:
            said = (isinstance(error, OSError) and error.strerror) or last_words(error)
            raise RunError(f"ray_address={address!r} cannot be joined: {said}{_advice(error)}") from error
        _started = True
        return
    with kept(), _own_token(), warnings.catch_warnings():
        # Ray starts its daemons by fork and exec at once, which JAX's threads do not mind.
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        try:
            ray.init(
                "local",
                num_cpus=workers,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=_folder(),
                object_store_memory=2**30,
                _system_config={"worker_niceness": 0},  # else workers give way to every other process of the machine
                **quiet,
            )
        except Exception as error:  # Ray raises just that where its daemons are too slow, on a machine that is full
            raise RunError(f"Ray did not start: {last_words(error)} --workers 0 does without it") from error
    _started = True


@contextlib.contextmanager
def _own_token() -> Iterator[None]:
    """A session that begins has a token of its own, unless the user names one. Ray would write one for all sessions
    into the home folder, which may be closed, and into which jobs that begin at once would each write."""
    if any(name in os.environ for name in AUTH):
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    try:
        yield
    finally:
        for name in AUTH:
            os.environ.pop(name, None)  # its daemons have it


def _forget_token() -> None:
    """What the environment says of tokens is read anew: a cluster that is joined may have another, or none."""
    with contextlib.suppress(ImportError, AttributeError):  # not every Ray asks for one
        from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore

        AuthenticationTokenLoader.instance().reset_cache()
        Config.initialize("")


def _check_answers(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), HEARD_SECONDS).close()


def _advice(error: Exception) -> str:
    """What to do where a cluster has not let this process in."""
    if "authentication token" not in f"{error!r} {error.__cause__!r}".lower():
        return ""
    said = "the token of its head must be in ~/.ray/auth_token or RAY_AUTH_TOKEN, and RAY_AUTH_MODE must be token"
    return f"; this process has no token, or another one: {said}"


def _folder() -> str | None:
    """Where Ray keeps its sockets: None for where it would, unless their paths are too long there for a socket."""
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    if asked is None or _fits(os.path.join(asked, "ray")):
        return None
    with contextlib.suppress(OSError):
        # Of this user alone: who else may write there could put sockets of his own in their place.
        short = os.path.join("/tmp", f"ray-{os.getuid()}")
        os.makedirs(short, mode=0o700, exist_ok=True)
        if os.stat(short, follow_symlinks=False).st_uid == os.getuid() and os.access(short, os.W_OK):
            return short
    most = MOST_PATH - len(f"/ray/{SOCKET}")
    raise UsageError(f"TMPDIR={asked!r} must be a folder of {most} letters or less, where Ray can have sockets")


def _fits(folder: str) -> bool:
    return len(os.fsencode(os.path.join(folder, SOCKET))) <= MOST_PATH


def stop_ray() -> None:
    """Ends the session, or leaves the cluster, if it was begun by `start_ray`."""
    global _started
    if _started:
        ray.shutdown()
        _forget_token()
        _started = False


def is_ours() -> bool:
    return _started


def has_other_machines() -> bool:
    return any(node["Alive"] and node["NodeManagerHostname"] != socket.gethostname() for node in ray.nodes())


def gpus_each(workers: int) -> float:
    """As many workers share a GPU as they must: each has one, or a whole part of one."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return 1 / -(-workers // gpus) if gpus else 0.0


def check_room(gpus: float) -> None:
    """Raises RunError where no machine of the session can ever have a worker."""
    if not has_room(gpus):
        have = told(ray.cluster_resources())
        said = "which no machine of the Ray session has"
        raise RunError(f"a worker takes {needs(gpus)}, {said}: all together have {have}")


def has_room(gpus: float) -> bool:
    """Whether some machine that lives has what a worker takes, were nobody else there."""
    living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(node.get("CPU", 0.0) >= 1 and node.get("GPU", 0.0) >= gpus for node in living)


def needs(gpus: float) -> str:
    return told({"CPU": 1, "GPU": gpus})


def told(resources: Mapping[str, float]) -> str:
    """Such as `4 CPU and 2 GPU`."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return f"{cpus:g} CPU and {gpus:g} GPU" if gpus else f"{cpus:g} CPU"


def waiting(workers: int, gpus: float) -> str:
    """What is said while workers do not start."""
    total, free = ray.cluster_resources(), ray.available_resources()
    one = "one worker" if workers == 1 else f"{workers} workers"
    return (
        f"Waiting for {one} of Ray to start, which takes {needs(gpus)}{'' if workers == 1 else ' each'}: of "
        f"{told(total)} that the session has, {told(free)} are free."
    )


def check_alive() -> None:
    """Raises RunError where the session is gone: its head, or what runs Ray on this machine."""
    node = ray._private.worker._global_node  # pyright: ignore
    if node is None:  # a client of a cluster hears of it by itself
        return
    if not _answers(socket.AF_UNIX, node.raylet_socket_name):
        raise _lost(node, "Ray has ended on this machine: its raylet is gone")
    host, _, port = node.gcs_address.rpartition(":")
    if not _answers(socket.AF_INET6 if ":" in host else socket.AF_INET, (host.strip("[]"), int(port))):
        raise _lost(node, f"the Ray session has ended: its head at {node.gcs_address} is gone")


def _lost(node: Any, said: str) -> RunError:
    """The error, after which nobody speaks with the session: Ray would wait for its head, and then end the process."""
    global _started
    if _started:  # daemons of this process; of a cluster that it has joined it has none
        with contextlib.suppress(Exception):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    _started = False
    abandon()
    return RunError(said)


def _answers(family: socket.AddressFamily, place: Any) -> bool:
    """Whether somebody listens. One who is merely slow does."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(place)
        except (TimeoutError, BlockingIOError):  # the second where many wait already
            return True
        except OSError:
            return False
    return True


def last_words(error: Exception) -> str:
    """The end of what Ray says, where it says what is wrong."""
    return one_line(error)[-300:]

"""Where a round keeps its store: a SQLite file of its folder, or a schema of a server behind a proxy."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nas.errors import UsageError
from nas.store import urls
from nas.store.sql import Store
from nas.testing.faults.proxy import Proxy


@runtime_checkable
class Place(Protocol):
    folder: Path

    @property
    def words(self) -> list[str]:
        """The flags that name the store."""
        ...

    @property
    def written(self) -> int:
        """How much has been written, in bytes of some kind."""
        ...

    def look(self) -> contextlib.AbstractContextManager[Store | None]:
        """What is durable, while nobody runs: looking changes nothing. None where there is no store yet."""
        ...

    def live(self) -> Store:
        """As any other process reads it."""
        ...

    def close(self) -> None: ...


class File:
    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "nas.db"
        self.url = f"sqlite:///{self.path}"

    @property
    def words(self) -> list[str]:
        return ["--store", "sqlite:///nas.db"]

    @property
    def written(self) -> int:
        return size(self.path) + size(log_of(self.path))

    @contextlib.contextmanager
    def look(self) -> Iterator[Store | None]:
        # Whoever closes the store last empties its log: so it is a copy that is opened.
        copy = beside(self.folder) / "look"  # where a disk that is full has room
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in (self.path, log_of(self.path)):
            if path.exists():
                shutil.copy(path, copy / path.name)
        with opened(f"sqlite:///{copy / self.path.name}", self.folder) as store:
            yield store

    def live(self) -> Store:
        return Store(self.url)

    def close(self) -> None:
        pass


def beside(folder: Path) -> Path:
    """What the harness keeps of a round: no fault reaches it."""
    return folder.with_name(folder.name + ".beside")


def log_of(path: Path) -> Path:
    """The write-ahead log of a SQLite file."""
    return path.with_name(path.name + "-wal")


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def opened(url: str, files: Path) -> Iterator[Store | None]:
    try:
        store = Store(url, files=files)
    except UsageError as error:
        if "holds no store yet" not in str(error) and "does not exist" not in str(error):
            raise
        yield None
        return
    with store:
        yield store


class Schema:
    """A schema of its own in the database that the URL names, which is dropped at the end."""

    def __init__(self, folder: Path, server: str):
        self.folder, self._name = folder, f"nas_faults_{uuid.uuid4().hex}"
        self._url: Any = urls.parse(server)
        self._run(f"CREATE SCHEMA {self._name}")
        self.proxy = Proxy(self._url.host or "127.0.0.1", self._url.port or 5432)
        own = self._url.update_query_dict({"options": f"-csearch_path={self._name}"})
        self.url = own.set(host="127.0.0.1", port=self.proxy.port).render_as_string(hide_password=False)
        self._direct = own.render_as_string(hide_password=False)

    def _run(self, statement: str) -> None:
        import psycopg

        plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @property
    def words(self) -> list[str]:
        return ["--store", self.url, "--files", "files"]

    @property
    def written(self) -> int:
        return self.proxy.sent

    @contextlib.contextmanager
    def look(self) -> Iterator[Store | None]:
        with opened(self._direct, self.folder / "files") as store:  # the proxy may still refuse
            yield store

    def live(self) -> Store:
        return Store(self.url, files=self.folder / "files")

    def close(self) -> None:
        self.proxy.close()
        self._run(f"DROP SCHEMA {self._name} CASCADE")


def place(folder: Path, server: str | None) -> File | Schema:
    """An empty one. Raises UsageError for a server that cannot be used."""
    folder.mkdir(exist_ok=True)
    beside(folder).mkdir(exist_ok=True)
    return File(folder) if server is None else Schema(folder, server)

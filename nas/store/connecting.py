"""Connections to a database: to a SQLite file, and to a server."""

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from nas.errors import UsageError
from nas.store import records
from nas.store.migrations import refusal

BUSY_SECONDS = 30.0  # how long one writer waits for another before it says so
# What both ends of a connection do to notice in a minute that the other is gone without a word; the last is how many
# milliseconds what was sent may lie without an answer.
ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "user_timeout": 60_000}


def _made(url: sa.URL, **how: Any) -> sa.Engine:
    engine = sa.create_engine(url, pool_logging_name="nas", **how)
    engine.pool.logger.addFilter(_has_no_traceback)  # pyright: ignore[reportAttributeAccessIssue]
    return engine


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """SQLAlchemy logs one for what it meets while it takes a connection back. Who uses the store is told of that in
    one line, or of the interrupt that it comes of."""
    return not record.exc_info


def path_of(url: sa.URL) -> Path:
    """Of a SQLite file."""
    return Path(str(url.database)).absolute()


def server_engine(url: sa.URL) -> sa.Engine:
    # Its client's library knows them without the `tcp_` that a server has before each, but for the last.
    how = {"connect_timeout": 30, **ALIVE}
    how["tcp_user_timeout"] = how.pop("user_timeout")
    try:
        how = {name: how[name] for name in how if name not in url.query}
        # A session that was lost while nobody used it is replaced before it is used.
        return _made(url, connect_args=how, pool_pre_ping=True)
    except ImportError:
        shown = url.render_as_string(hide_password=True)
        install = "pip install 'nas-engine[postgres]'"
        raise UsageError(f"store={shown} needs psycopg, which is not installed; {install}") from None


def sqlite_engine(url: sa.URL, create: bool) -> sa.Engine:
    path = path_of(url)
    why = refusal(path, create)
    if why is not None:
        raise UsageError(f"store={url.render_as_string()} {why}")
    mode = "rwc" if create else "rw"
    if not create and not os.access(path.parent, os.W_OK):
        # SQLite cannot make the file that readers share with a writer, nor needs one if nobody writes.
        mode = "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin where `_transaction` says, also for the schema
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        return connection

    return _made(url, creator=connect, json_deserializer=records.data_in)

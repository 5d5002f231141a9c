"""Which database a URL names: its password, what is printed of it, and where files lie that belong to it."""

import os
import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from nas.errors import UsageError

FILES = "NAS_FILES"  # in the environment, the folder of the files of all stores

_PASSWORDS: dict[str, str] = {}  # that were given to this process, by the URL without them
_FOLDERS: dict[str, Path] = {}  # of files, that were given to this process, by the same


def parse(url: str) -> sa.URL:
    form = "such as sqlite:///nas.db or postgresql://user@host/name"
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        said = re.sub(r":(?!//).*@", ":***@", url)
        raise UsageError(f"store={said!r} is not a database URL, {form}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise UsageError(f"store={shown} is no kind of database that is supported, {form}")
    if parsed.drivername == "sqlite" and (parsed.database in (None, "", ":memory:") or parsed.query):
        raise UsageError(f"store={shown} must name a file and nothing more, such as sqlite:///nas.db")
    return parsed


def with_password(url: sa.URL) -> sa.URL:
    """With the one that is in the URL, or was in one of the same database before."""
    password = url.password or url.query.get("password")
    if isinstance(password, str):
        _PASSWORDS[plain(url)] = password
    known = _PASSWORDS.get(plain(url))
    return url.difference_update_query(["password"]).set(password=known) if known else url


def without_password(url: str) -> str:
    """A URL as it can be printed. Raises UsageError for one of no store."""
    return plain(parse(url))


def plain(url: sa.URL) -> str:
    """The URL without its password: it can be printed, kept, and given again."""
    shown = url.difference_update_query(["password", "sslpassword"])._replace(
        drivername=url.drivername.partition("+")[0], password=None
    )
    return shown.render_as_string(hide_password=False)


def root(url: sa.URL) -> Path:
    """The folder of a store's files by default: beside a SQLite file, else in the working folder."""
    if url.drivername == "sqlite":
        return Path(os.path.abspath(f"{url.database}.files"))

    place = [url.host or "localhost", str(url.port or 5432), url.database or _named(url) or url.username or "postgres"]
    return Path("-".join(re.sub(r"[^\w.]+", "-", part) for part in place) + ".files").absolute()


def _named(url: sa.URL) -> str | None:
    name = url.query.get("dbname")  # as libpq takes it
    return name if isinstance(name, str) else None


def _checked(folder: str | Path) -> Path:
    """Raises UsageError for what is no folder, and cannot become one: it would be remembered."""
    place = Path(os.path.abspath(folder))
    there = next(each for each in (place, *place.parents) if each.exists())
    if not str(folder) or not there.is_dir():
        raise UsageError(f"files={str(folder)!r} must be a folder, or the name of a new one")
    return place


def given_folder(url: sa.URL, folder: str | Path | None) -> Path | None:
    """Where the user says that files lie: now, to this process before, or in the environment."""
    if folder is not None:
        _FOLDERS[plain(url)] = _checked(folder)
    known = _FOLDERS.get(plain(url))
    return Path(os.path.abspath(os.environ[FILES])) if known is None and os.environ.get(FILES) else known

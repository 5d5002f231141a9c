"""A file, changed: bytes anywhere, and what is inside of archives, texts, trees and rows, by a random generator."""

import bz2
import contextlib
import gzip
import io
import json
import re
import sqlite3
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from nas.saved import checkpoint

Random = np.random.Generator

NUMBERS = (0, -1, 1, 2**31, -(2**31), 2**63, 10**400, 1.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), 10**6)
TEXTS = ("", " ", "x", "ü", "\x1b[2J", "\u202e", "\ud800", "\x00", "../../etc/passwd", "/etc/passwd", "a" * 5000)
TEXTS += ("nan", "1e999", "9" * 200, "0x10", "<script>", "[/red]", "%s%n", "{x}", "yes", "~", "latest", "it'")
ODD: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [1, "a"], {"a": 1}, {"name": {}}, [None] * 9)
WORDS = [str(each).encode("utf-8", "surrogatepass") for each in (*NUMBERS[:-1], *TEXTS)]
WORDS += [
    b"[",
    b"{",
    b"}",
    b"&a [*a]",
    b"!!python/object/apply:os.system",
    b"- ",
    b": ",
    b"\n",
    b"'",
    b'"',
    b"<<:",
    b"|",
]
TOKEN = re.compile(rb"[\w.+-]+|[^\w\s]")


def changed(name: str, data: bytes, random: Random) -> bytes:
    """The content of a file of this name, changed in one to four places."""
    forms = [ending for ending in INSIDE if name.endswith(ending)]
    if forms and random.random() < 0.7:
        with contextlib.suppress(Exception):  # of what has been changed already, or is no longer of its form
            return INSIDE[forms[0]](data, random)
    for _ in range(random.integers(1, 5)):
        data = raw(data, random)
    return data


def pick(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def raw(data: bytes, random: Random) -> bytes:
    n = len(data)
    i, j = sorted(int(each) for each in random.integers(0, n + 1, 2))
    length = int(min(n - i, random.geometric(0.2)))
    match int(random.integers(8)):
        case 0 if n:
            i = min(i, n - 1)
            return data[:i] + bytes([data[i] ^ (1 << int(random.integers(8)))]) + data[i + 1 :]
        case 1:
            return data[:i] + random.bytes(length) + data[i + length :]
        case 2:
            return data[:i] + bytes([pick(random, (0, 0x7F, 0x80, 0xFF))]) * length + data[i + length :]
        case 3:
            return data[:i]
        case 4:
            return data[:i] + data[j:]
        case 5:
            return data[:j] + data[i : i + 4096] + data[j:]
        case 6:
            return data[:i] + random.bytes(length) + data[i:]
        case _:
            return data[:i] + pick(random, WORDS)[:5000] + data[i + length :]


def text(data: bytes, random: Random) -> bytes:
    """Words and signs exchanged for odd ones, and lines lost, doubled or exchanged."""
    for _ in range(random.integers(1, 4)):
        found = list(TOKEN.finditer(data))
        lines = data.split(b"\n")
        kind = int(random.integers(5))
        if kind < 3 and found:
            at = pick(random, found)
            data = data[: at.start()] + pick(random, WORDS) + data[at.end() :]
        elif kind == 3:
            del lines[int(random.integers(len(lines)))]
            data = b"\n".join(lines)
        else:
            data = b"\n".join([*lines, pick(random, lines)])
    return data


def tree(data: bytes, random: Random) -> bytes:
    value = json.loads(data)
    for _ in range(random.integers(1, 4)):
        value = grafted(value, random)
    return json.dumps(value).encode()


def grafted(value: Any, random: Random) -> Any:
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        key = pick(random, list(value)) if isinstance(value, dict) else int(random.integers(len(value)))
        copy: Any = value.copy()
        kind = random.random()
        if kind < 0.1:
            del copy[key]
        elif kind < 0.15 and isinstance(copy, list):
            copy.append(copy[key])
        elif kind < 0.15:
            copy[str(pick(random, TEXTS))] = copy[key]
        else:
            copy[key] = grafted(value[key], random)
        return copy
    return pick(random, ODD)


def array(value: np.ndarray, random: Random) -> np.ndarray:
    value = np.array(value)
    match int(random.integers(7)):
        case 0 if value.size and value.dtype.kind in "iufb":
            number: Any = pick(random, (0, 1, -1, 1e38, np.inf, np.nan, 200, 2**31))
            with np.errstate(all="ignore"):
                value.reshape(-1)[int(random.integers(value.size)) :] = np.array(number).astype(value.dtype)
        case 1:
            dtype: Any = pick(random, ("u1", "i8", "f2", "f4", "f8", "c16", "?", "U3", "S2", "M8[D]", "V4", "i1"))
            with np.errstate(all="ignore"), contextlib.suppress(Exception):
                value = value.astype(dtype)
        case 2:
            value = value[: int(random.integers(len(value) + 1))] if value.ndim else value
        case 3:
            value = value[None]
        case 4:
            value = value.T.copy()
        case 5:
            value = np.zeros(pick(random, ((), (0,), (1,), (0, 10**6), (3, 4, 5))), value.dtype)
        case _:
            value = value.reshape(-1)
    return value


def members(data: bytes, random: Random) -> bytes:
    """An archive with a member changed, lost, doubled, encrypted in name, or compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = pick(random, list(files))
    kind = random.random()
    if kind < 0.15:
        del files[name]
    elif kind < 0.6 and name.endswith(".npy"):
        file = io.BytesIO()
        np.save(file, array(np.load(io.BytesIO(files[name])), random))
        files[name] = file.getvalue()
    elif kind < 0.8 and name.endswith(".npy"):
        files[name] = text(files[name][:128], random) + files[name][128:]
    else:
        files[name] = changed(name, files[name], random)
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", pick(random, (0, 8, 12, 14))) as archive:
        warnings.simplefilter("ignore")
        for each, content in files.items():
            archive.writestr(each, content)
        if kind > 0.95:
            archive.writestr(name, files.get(name, b""))
    return out.getvalue()


def unpacked(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> Callable[[bytes, Random], bytes]:
    return lambda data, random: pack(raw(raw(unpack(data), random), random))


def without_checksum(note: dict[str, str]) -> dict[str, str]:
    """A note that says nothing of the bytes of arrays, so that what is changed in these is looked at further."""
    return {
        key: json.dumps({name: each for name, each in json.loads(value).items() if name != checkpoint.CHECKSUM})
        for key, value in note.items()
    }


def arrays(data: bytes, random: Random) -> bytes:
    from safetensors import numpy as form

    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), dict(form.load(data))
    note = without_checksum(header.get("__metadata__", {}))
    kind = random.random()
    name = pick(random, list(values))
    if kind < 0.2:
        del values[name]
    elif kind < 0.7:
        values[name] = array(values[name], random)
    elif kind < 0.8:
        values = {each: np.full_like(value, pick(random, (1e38, -1e38, 1e-38, 1))) for each, value in values.items()}
    elif kind < 0.9 and note:
        note = {key: tree(value.encode(), random).decode() for key, value in note.items()}
    else:
        return data[:8] + text(data[8 : 8 + length], random)[:length].ljust(length) + data[8 + length :]
    return form.save({key: np.ascontiguousarray(value) for key, value in values.items()}, note)


def rows(data: bytes, random: Random) -> bytes:
    """A database with values of rows changed, or rows lost or doubled."""
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        file.write(data)
        file.flush()
        database = sqlite3.connect(file.name)
        database.execute("pragma ignore_check_constraints=on")
        for _ in range(random.integers(1, 4)):
            table = pick(random, ("run", "trial", "trial", "measurement", "measurement", "artifact"))
            columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
            with contextlib.suppress(sqlite3.Error, UnicodeEncodeError, OverflowError):
                _row(database, table, columns, random)
        database.commit()
        database.close()
        file.seek(0)
        with open(file.name, "rb") as again:
            return again.read()


def _row(database: sqlite3.Connection, table: str, columns: list[str], random: Random) -> None:
    column = pick(random, columns)
    ids = [row[0] for row in database.execute(f"select rowid from {table}")]
    if random.random() < 0.2:
        database.execute(f"delete from {table} where rowid = ?", [pick(random, ids)])
        return
    [[old]] = database.execute(f'select "{column}" from {table} where rowid = ?', [pick(random, ids)]).fetchall()
    value = pick(random, (*ODD, b"\x00\xff", 2**40))
    if isinstance(old, str) and old[:1] in ("{", "[") and random.random() < 0.7:
        value = tree(old.encode(), random).decode()
    elif isinstance(value, list | dict):
        value = json.dumps(value)
    where = "" if random.random() < 0.2 else f" where rowid = {pick(random, ids)}"
    database.execute(f'update {table} set "{column}" = ?{where}', [value])


# By the ending of a name: first the longer ones.
INSIDE: dict[str, Callable[[bytes, Random], bytes]] = {
    ".tar.gz": unpacked(gzip.compress, gzip.decompress),
    ".gz": unpacked(gzip.compress, gzip.decompress),
    ".pbz2": unpacked(lambda data: bz2.compress(data, 1), bz2.decompress),
    ".npz": members,
    ".pth": members,
    ".safetensors": arrays,
    ".json": tree,
    ".db": rows,
    **dict.fromkeys((".yaml", ".csv", ".txt", ".xml"), text),
}

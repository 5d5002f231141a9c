"""Files of latencies: a JSON of what `nas latency measure` found, which `--latency` makes a cost.

    {"format": 1, "space": {"name", "fingerprint", "image_size", "image_channels", "num_classes"},
     "fixed_ms": NUMBER, "table_ms": [[NUMBER, ...], ...], "card": {...}}

`table_ms` has a row for each place of a network (a decision, or an edge of its cells) and in it a number for each
choice: see `spaces.latency`. `card` is for people. A file is data that anybody may have written.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.plain import from_json, read_bounded, shown, write_whole
from spaces.base import Space, fingerprint
from spaces.latency import Latency, sizes

FORMAT = 1
MOST_BYTES = 2**22
MOST_MS = 1e9
SHAPE = ("image_size", "image_channels", "num_classes")


def identified(name: str, space: Any) -> dict[str, Any]:
    """Which networks a table is of."""
    return {"name": name, "fingerprint": fingerprint(space), **{field: getattr(space, field, None) for field in SHAPE}}


def write(path: Path, name: str, space: Space, latency: Latency, card: dict[str, Any]) -> None:
    """Raises UsageError where the file cannot be written."""
    table = [[round(value, 9) for value in row] for row in latency.table]
    data = {"format": FORMAT, "space": identified(name, space), "fixed_ms": round(latency.fixed, 9), "table_ms": table}
    write_whole(path, (json.dumps(data | {"card": card}, indent=1) + "\n").encode())


def read(path: str, space: Space) -> tuple[Latency, str]:
    """The cost in a file and the digest of its content. Raises UsageError for a file that is none, or of networks that
    are not those of the space."""
    field = f"latency={path!r}"
    written = read_bounded(field, path, MOST_BYTES, "table of latencies")
    try:
        latency = _latency(from_json(written), space)
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{field} is no table of latencies of this space: {error}") from error
    return latency, hashlib.sha256(written).hexdigest()


def _latency(data: Any, space: Space) -> Latency:
    if not isinstance(data, dict) or not {"format", "space", "fixed_ms", "table_ms"} <= data.keys():
        raise ValueError("it must have format, space, fixed_ms and table_ms")
    if data["format"] != FORMAT:
        raise ValueError(f"format={shown(data['format'])} is unknown to this version; allowed: {FORMAT}")
    _check_space(data["space"], space)
    counts, rows = sizes(space), data["table_ms"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("table_ms must be a list of lists of numbers")
    if tuple(map(len, rows)) != counts:
        raise ValueError(
            f"table_ms must have {len(counts)} rows, of {', '.join(map(str, sorted(set(counts))))} numbers"
        )
    for value in (data["fixed_ms"], *(value for row in rows for value in row)):
        # NaN is none either. What a choice adds may be below 0, where it was timed with noise.
        if type(value) not in (int, float) or not abs(value) <= MOST_MS:
            raise ValueError(f"{shown(repr(value))} must be a number of milliseconds, of at most {MOST_MS:g}")
    latency = Latency(float(data["fixed_ms"]), tuple(tuple(map(float, row)) for row in rows))
    if not (slowest := latency.fixed + sum(max(row, default=0.0) for row in latency.table)) > 0:
        raise ValueError(f"its slowest network takes {slowest:.3g} ms, which none does")
    return latency


def _check_space(given: Any, space: Any) -> None:
    expected = identified("", space)
    if not isinstance(given, dict) or not expected.keys() <= given.keys():
        raise ValueError(f"space must have {', '.join(expected)}")
    if given["fingerprint"] != expected["fingerprint"]:
        raise ValueError(f"it was measured of {shown(repr(given['name']))}, of another kind or with other fields")
    for name in SHAPE:
        if given[name] != expected[name]:
            raise ValueError(f"it was measured with {name}={shown(repr(given[name]))}, not {expected[name]}")

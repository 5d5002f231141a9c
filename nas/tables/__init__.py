"""Published tables of architectures and their scores: one open file format, and readers of others."""

import os.path
from typing import Any

from nas import registry
from nas.errors import UsageError
from nas.tables.columns import Column as Column
from nas.tables.table import Table as Table
from nas.tables.table import TabularSpace as TabularSpace
from nas.tables.table import write_table as write_table
from spaces.base import fingerprint

MOST_BYTES = 2**34


def read_table(path: str, space_name: str | None = None) -> Table:
    """The table in a file, of our format or of one that is recognised. Raises UsageError, saying what is wrong, also
    where it is not of the space that is named."""
    from nas.npz import open_arrays
    from nas.tables import nb201, table

    arrays = open_arrays(f"table={path!r}", path, MOST_BYTES, mapped=True)
    if nb201.recognises(arrays):
        return nb201.read(path, arrays)
    return table.read(path, arrays, None if space_name is None else registry.portable(space_name))


def table_of(task: str, space_name: str, space: Any = None) -> Table | None:
    """The table of a task table:FILE, None for any other. Raises UsageError for one of another space.

    `space` is the one that is searched, as it was built: of the user's own the table must have the very same.
    """
    kind, _, place = task.partition(":")
    if kind != "table" or not place:
        return None
    table = read_table(os.path.expanduser(place), space_name)
    if table.space_name != registry.portable(space_name):
        raise UsageError(f"space={space_name!r} is not that of {task!r}, which is {table.space_name!r}")
    if table.space_fields is not None and space is not None and fingerprint(table.space) != fingerprint(space):
        raise UsageError(f"space={space_name!r} has other fields, or other code, than when {task!r} was built")
    return table

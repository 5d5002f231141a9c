"""Published tables of architectures and their scores: one open file format, and readers of others."""

import os.path

from nas.errors import UsageError
from nas.tables.table import Column as Column
from nas.tables.table import Table as Table
from nas.tables.table import TabularSpace as TabularSpace
from nas.tables.table import write_table as write_table


def read_table(path: str) -> Table:
    """The table in a file, of our format or of one that is recognised. Raises UsageError, saying what is wrong."""
    from nas.tables import nb201, table

    arrays = table.open_arrays(path)
    return nb201.read(path, arrays) if nb201.recognises(arrays) else table.read(path, arrays)


def table_of(task: str, space_name: str) -> Table | None:
    """The table of a task table:FILE, None for any other. Raises UsageError for one of another space."""
    kind, _, place = task.partition(":")
    if kind != "table" or not place:
        return None
    table = read_table(os.path.expanduser(place))
    if table.space_name != space_name:
        raise UsageError(f"space={space_name!r} is not that of {task!r}, which is {table.space_name!r}")
    return table

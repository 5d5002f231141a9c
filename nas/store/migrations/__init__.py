"""What makes a database a store of ours: its mark, and its schema as steps that alembic runs from in here.

A new step is a file under `versions/`; then `HEAD` names it. Users need no alembic.ini and type no command.
"""

from pathlib import Path
from typing import Any

HEAD = "0004"  # the schema that this code reads and writes; a constant, for opening must not import alembic
VERSION_TABLE = "nas_version"  # not alembic's own name, which any other application may have used
APPLICATION_ID = 0x6E617331  # "nas1", in a SQLite file's header


def refusal(path: Path, create: bool) -> str | None:
    """Why no store can be opened there, read off the header: by only opening a file, SQLite may change it."""
    if path.exists() and not path.is_file():
        return "is not a file"
    try:
        with path.open("rb") as file:
            header = file.read(72)
    except FileNotFoundError:
        if not path.parent.is_dir():
            return f"cannot exist: there is no directory {path.parent}"
        return None if create else f"does not exist in {path.parent}: a search makes it, and --store names another"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not header:
        return None if create else "is empty: a search makes it a store"
    if header.startswith(b"SQLite format 3\0") and header[68:72] == APPLICATION_ID.to_bytes(4, "big"):
        return None
    return "is not a store of ours and was left as it is; name another"


def upgrade(connection: Any, revision: str | None) -> bool:
    """Bring the schema from `revision` (None: nothing there) to `HEAD`, inside the caller's transaction.

    False, having done nothing, where `revision` is none of ours: a later version of the code wrote it.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "nas.store:migrations")
    config.attributes["connection"] = connection
    ours = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in ours:
        return False
    command.upgrade(config, "head")
    return True

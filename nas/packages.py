"""That a program of this library runs with its own packages, and not with files of their names that lie around."""

import importlib.util
import sys
from pathlib import Path

NAMES = ("spaces", "strategies", "predictors")


def check(program: str) -> None:
    """Ends the process, with status 2 and one line, where another file or folder would be imported in place of one of
    our packages: `python -m` and scripts look into their own folder first."""
    home = Path(__file__).parents[1]
    for name in NAMES:
        spec = importlib.util.find_spec(name)
        place = None if spec is None or spec.origin is None else Path(spec.origin)
        if place != home / name / "__init__.py":
            said = (
                f"{name!r} is imported from {place or 'a folder of that name'}, which hides the package of this library"
            )
            print(f"{program}: error: {said}; rename it, or start from another folder", file=sys.stderr)
            sys.exit(2)

"""What a user believes of choices before a search, as weights of every choice of a space."""

from argparse import ArgumentTypeError

from nas.errors import UsageError, unknown
from nas.plain import number, shown
from spaces.abilities import decisions
from spaces.base import Space

Weights = tuple[tuple[float, ...], ...]
MOST = 1e6
MOST_LISTED = 12  # choices, which an error names
FORM = "be CHOICE=WEIGHT or DECISION: CHOICE=WEIGHT, with semicolons between several"


def weights_of(text: str, space: Space) -> Weights:
    """Of each decision the weights of its choices, which are 1 where the text says nothing. What is said of a choice in
    one decision counts after what is said of it everywhere, if it comes later. Raises UsageError."""
    places: dict[str, list[tuple[int, int]]] = {}
    known = decisions(space)
    for i, (decision, choices) in enumerate(known):
        for j, choice in enumerate(choices):
            places.setdefault(choice, []).append((i, j))
            places.setdefault(f"{decision}: {choice}", []).append((i, j))
    weights = [[1.0] * size for size in space.cardinalities]
    said: set[str] = set()
    for entry in text.split(";"):
        name, equals, weight = (part.strip() for part in entry.rpartition("="))
        if not equals:
            raise UsageError(f"prior={shown(text)!r} must {FORM}")
        if name not in places:
            words = {choice for _, choices in known for choice in choices}
            raise unknown("prior", name, places if ": " in name or len(words) > MOST_LISTED else words)
        if name in said:
            raise UsageError(f"prior={shown(text)!r} says {name!r} twice")
        said.add(name)
        for i, j in places[name]:
            weights[i][j] = _weight(name, weight)
    for (decision, _), row in zip(known, weights, strict=True):
        if not sum(row) > 0:
            raise UsageError(f"prior={shown(text)!r} leaves {decision!r} no choice whose weight is above 0")
    return tuple(map(tuple, weights))


def _weight(name: str, text: str) -> float:
    try:
        weight = number(text)
    except ArgumentTypeError:
        weight = -1.0
    if not 0 <= weight <= MOST:
        raise UsageError(f"prior={f'{name}={text}'!r}: a weight must be a number in 0..{MOST:g}")
    return weight

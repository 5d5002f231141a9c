"""What a user believes of choices before a search, as weights of every choice of a space."""

import math

from nas.errors import UsageError, unknown
from nas.plain import shown
from spaces.abilities import decisions
from spaces.base import Space

Weights = tuple[tuple[float, ...], ...]
MOST_LISTED = 12  # choices, which an error names
FORM = "be CHOICE=WEIGHT or DECISION: CHOICE=WEIGHT, with semicolons between several"


def weights_of(text: str, space: Space) -> Weights:
    """Of each decision the weights of its choices, which are 1 where the text says nothing, and of what it says twice
    the later one. Raises UsageError."""
    places: dict[str, list[tuple[int, int]]] = {}
    for i, (decision, choices) in enumerate(decisions(space)):
        for j, choice in enumerate(choices):
            places.setdefault(choice, []).append((i, j))
            places.setdefault(f"{decision}: {choice}", []).append((i, j))
    weights = [[1.0] * size for size in space.cardinalities]
    for entry in text.split(";"):
        name, equals, number = (part.strip() for part in entry.rpartition("="))
        if not equals:
            raise UsageError(f"prior={shown(entry)!r} must {FORM}")
        if name not in places:
            words = {choice for _, choices in decisions(space) for choice in choices}
            raise unknown("prior", name, places if ": " in name or len(words) > MOST_LISTED else words)
        for i, j in places[name]:
            weights[i][j] = _weight(name, number)
    for (decision, _), row in zip(decisions(space), weights, strict=True):
        if not sum(row) > 0:
            raise UsageError(f"prior={shown(text)!r} leaves {decision!r} no choice whose weight is above 0")
    return tuple(map(tuple, weights))


def _weight(name: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1e6:
        raise UsageError(f"prior={f'{name}={number}'!r}: a weight must be a number in 0..1e6")
    return weight

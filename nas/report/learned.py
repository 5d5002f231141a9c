"""What the page of a run says of its search as a whole: ranks, the importance of decisions, choices over time."""

from typing import Any

import numpy as np
from markupsafe import Markup

from nas.metrics import outer
from nas.report import charts, facts
from nas.report.facts import FEW, Facts
from nas.report.importance import TREES, Importance, importance

MOST_BARS = 24
MOST_CHARTS = 64
CHOICES_OF_PALETTE = len(charts.PALETTE)
LATER = {"chart": None, "lines": ["It is measured when the run has ended; nas report measures it before."]}


def ranks(of: Facts) -> dict[str, Any]:
    """Kendall's correlation of scores in the search and after training from scratch."""
    found = facts.rank_agreement(of)
    n, before, after = len(found.pairs), of.objective, outer(facts.standalone(of))
    if n < 3:
        said = f"It cannot be said: {n or 'none'} of the architectures that were trained from scratch "
        said += f"{'has' if n < 2 else 'have'} a score of the search too, and a correlation needs at least 3 "
        return {"said": f"{said}(--finalists N).", "chart": None}
    if found.tau is None:
        return {"said": f"All {n} have equal scores: there is no order.", "chart": None}
    said = (
        f"Kendall's tau of {before} in the search and {after} is {found.tau:.2f}, n = {n} (p = {found.p_value:.2g}); "
    )
    said += "1 is the same order. "
    said += "They are few, and mostly the best, among which order is hard to tell." if n < 30 else ""
    return {"said": said, "chart": Markup(charts.pairs(found.pairs, (before, after)))}


def measured_importance(of: Facts) -> Importance | None:
    """None where there are too few scores, or all are equal."""
    rows, scores = facts.scored(of)
    if len(scores) < FEW or np.ptp(scores) == 0 or not rows.shape[1]:
        return None
    return importance(rows, scores, facts.sizes(of))


def importances(of: Facts) -> dict[str, Any]:
    found = measured_importance(of)
    if found is None:
        n = len(facts.scored(of)[1])
        said = (
            "All scores are equal." if n >= FEW else f"{n} scored architectures are too few: at least {FEW} are needed."
        )
        return {"chart": None, "lines": [said]}
    order = np.argsort(-found.shares)[:MOST_BARS]
    names = [facts.worded(of)[i][0] for i in order]
    shares, spread = ([float(each[i]) for i in order] for each in (found.shares, found.spread))
    said = "Importance of each decision: " + ", ".join(
        f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True)
    )
    agreement = "has no meaning here" if found.agreement is None else f"is {found.agreement:.2f}"
    lines = [
        f"Shares of the variance of {of.objective} that each decision explains by itself; lines are deviations over "
        f"trees. Together they are {found.shares.sum():.0%}: the rest is of decisions together.",
        f"Functional analysis of variance (Hutter et al., 2014) of a random forest of {TREES} trees on one-hot rows, "
        f"exact over the leaves, for architectures drawn uniformly from the space. It learned from {found.rows} of them"
        + (f", drawn from {found.seen}" if found.seen > found.rows else "")
        + f"; the rank correlation (Spearman) of what it says of held-out ones (fifths) {agreement}. "
        + ("As that is low, so is what this is worth. " if found.agreement is None or found.agreement < 0.3 else "")
        + "A search visits some regions more than others, so where it did not go the forest guesses.",
    ]
    if len(found.shares) > MOST_BARS:
        lines.append(f"The first {MOST_BARS} of {len(found.shares)} decisions are shown.")
    if not facts.worded(of) or not of.words:
        lines.append("The space is not known here: choices that were never seen do not count.")
    return {"chart": Markup(charts.bars(names, shares, spread, said)), "lines": lines}


def over_time(of: Facts) -> dict[str, Any]:
    """The share of each choice among what was proposed, in windows of time."""
    shares, windows = facts.shares(of)
    if not shares:
        return {"charts": []}
    words = facts.worded(of)
    spans = [f"{a}" if a == b else f"{a} to {b}" for a, b in windows]
    found = [
        {
            "name": name,
            "chart": Markup(charts.heat(choices, share, spans, f"Shares of the choices of {name} over time")),
        }
        for (name, choices), share in zip(words, shares, strict=True)
        if len(choices) > 1
    ]
    groups = {choices for _, choices in words}
    whole = None
    if len(groups) == 1 and of.words and 1 < len(words[0][1]) <= CHOICES_OF_PALETTE:
        mean = np.mean(shares, axis=0)
        whole = Markup(charts.stacked(words[0][1], mean, spans, "Shares of all operations among proposals over time"))
    legend = [{"name": name, "colour": charts.PALETTE[i]} for i, name in enumerate(words[0][1])] if whole else []
    said = (
        f"Below, of each decision the share of its choices in {len(windows)} windows of {of.unit}s from left to right, "
    )
    said += "the darker the more."
    if len(found) > MOST_CHARTS:
        said += f" The first {MOST_CHARTS} of {len(found)} decisions are shown."
    return {"charts": found[:MOST_CHARTS], "whole": whole, "legend": legend, "said": said}

"""Every strategy on every member of a family of made tables, beside random search, plain baselines and real peers.

    python benchmarks/league.py                                the cheap ones
    python benchmarks/league.py --entrants bayesian,"plain gp" --trials 100 --seeds 20 --members chain,pairs
    python benchmarks/league.py --entrants peers               what is installed of Optuna, SMAC, BoTorch, HEBO
    python benchmarks/league.py --by fronts                    two objectives, the error and the multiply-adds
    python benchmarks/league.py --by predictors --seeds 10     Kendall's tau of predictors
    python benchmarks/league.py --by priors                    a right and a wrong belief about choices
    python benchmarks/league.py --table ../shared/benchmarks/nb201.npz    NAS-Bench-201 as three more members

A search's regret is how far the clean score of the best that it observed is from the best of the table, as a share of
the deviation of random architectures (of a space too large to list: from the best that any entrant met). A hit is a
search that evaluated the best row. Seed `s` searches table `s mod 20` of a member. `p` is of a two-sided Mann-Whitney
test of regrets against random search's.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from proving import fronts, peers, plain, predictors, priors
from proving.family import MEMBERS, Member
from proving.published import published
from proving.runs import Run, ours, split, theirs
from scipy.stats import mannwhitneyu

from nas.training.compilation import quick_start
from spaces.base import sample
from strategies import STRATEGIES

CHEAP = ("random", "plain evolution", "regularized-evolution", "evolution", "local-search", "reinforce", "ppo")
LEARNING = ("plain gp", "plain forest", "bayesian", "prescreened")
AT = (50, 100, 200, 300)


def main() -> None:
    options = _options()
    quick_start()
    members = {**MEMBERS, **(published(options.table) if options.table else {})}
    chosen = [members[name] for name in options.members.split(",")] if options.members else list(members.values())
    asks = {"best": league, "fronts": fronts.league, "predictors": predictors.league, "priors": priors.league}
    ask = asks[options.by]
    report.answer({options.by: lambda: ask(chosen, options)}, ("jax", "numpy", "scikit-learn"), options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--entrants", help="strategies, baselines and peers by name, or cheap, learning, peers [cheap; else all]"
    )
    parser.add_argument("--members", help="of the family, by name [all]")
    parser.add_argument("--table", help="NAS-Bench-201: three more members")
    parser.add_argument("--seeds", type=int, default=100, help="searches of each [%(default)s]")
    parser.add_argument("--first", type=int, default=0, help="the first seed [%(default)s]")
    parser.add_argument("--trials", type=int, default=300, help="evaluations of a search [%(default)s]")
    how = "what is judged: the best found, fronts of two objectives, how predictors order rows, or what a belief about "
    how += "choices is worth [%(default)s]"
    parser.add_argument("--by", choices=("best", "fronts", "predictors", "priors"), default="best", help=how)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def entrants(text: str) -> Iterator[str]:
    groups = {"cheap": CHEAP, "learning": LEARNING, "peers": tuple(peers.installed())}
    for name in split(text):
        yield from groups.get(name, (name,))


def league(members: list[Member], options: argparse.Namespace) -> tuple[str, Any]:
    names = list(dict.fromkeys(["random", *entrants(options.entrants or "cheap")]))
    seeds = range(options.first, options.first + options.seeds)
    at = [n for n in AT if n <= options.trials]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for member in members:
        runs = {name: _run(name, member, seeds, options.trials) for name in names}
        for name, numbers in _measured(member, runs, at).items():
            found[name][member.name] = numbers
        for name in names:
            report.say(f"{member.name}: {name}: {_said(found[name][member.name], at)}")
    text = f"{options.seeds} searches of {options.trials} trials each. Regret in % of a deviation, and hits.\n\n"
    header = ["", *(member.name for member in members), "seconds an ask"]
    for n in at:
        lines = []
        for name in names:
            cells = [_cell(found[name][member.name], str(n)) for member in members]
            seconds = np.mean([found[name][member.name]["seconds"] for member in members])
            lines.append([name, *cells, f"{seconds:.4f}"])
        text += f"After {n} trials:\n\n" + report.table(header, lines) + "\n\n"
    return text, found


def _run(name: str, member: Member, seeds: range, trials: int) -> Run:
    if name == "prescreened" or name.split("(")[0] in STRATEGIES:
        return ours(name, member, seeds, trials)
    return theirs({**plain.BASELINES, **peers.PEERS}[name], member, seeds, trials)


def _measured(member: Member, runs: dict[str, Run], at: list[int]) -> dict[str, dict[str, Any]]:
    """Of each entrant the regrets and hits after so many trials, and how many different rows it evaluated."""
    if member.listed:
        tables = {number: member.table(number) for number in set(next(iter(runs.values())).numbers)}
        legal = member.legal()
        best = {number: float(np.nanmin(np.where(legal, table, np.nan))) for number, table in tables.items()}
        unit = {number: float(np.nanstd(np.where(legal, table, np.nan))) for number, table in tables.items()}
    else:
        best = {}
        for run in runs.values():
            for number, clean in zip(run.numbers, run.clean, strict=True):
                best[number] = min(best.get(number, np.inf), float(np.nanmin(clean)))
        unit = {number: _deviation(member, number) for number in best}
    lowest, scale = (np.array([of[n] for n in next(iter(runs.values())).numbers]) for of in (best, unit))
    found = {}
    for name, run in runs.items():
        reached = run.reached()
        regret = (reached - lowest[:, None]) / scale[:, None]
        hit = np.logical_or.accumulate(run.clean <= lowest[:, None], axis=1)
        numbers: dict[str, Any] = {"seconds": run.seconds / reached.size, "different": run.different()}
        for n in at:
            numbers[str(n)] = {"regret": regret[:, n - 1].tolist(), "hits": float(hit[:, n - 1].mean())}
        found[name] = numbers
    for name, numbers in found.items():
        for n in at if name != "random" else ():
            ours_, random = (np.array(each[str(n)]["regret"]) for each in (numbers, found["random"]))
            numbers[str(n)]["p"] = float(mannwhitneyu(ours_, random).pvalue)
    return found


def _deviation(member: Member, number: int) -> float:
    rows = sample(member.space, jax.random.key(number), 2000)
    return float(jnp.std(member.table(number)(rows)))


def _said(numbers: dict[str, Any], at: list[int]) -> str:
    parts = [f"{100 * np.mean(numbers[str(n)]['regret']):.1f}/{100 * numbers[str(n)]['hits']:.0f}" for n in at]
    return " ".join(parts) + f" different {numbers['different']:.0f} seconds {numbers['seconds']:.4f}"


def _cell(numbers: dict[str, Any], n: str) -> str:
    star = "" if numbers[n].get("p", 1) < 0.05 else "~"
    return f"{100 * np.mean(numbers[n]['regret']):.1f}{star} ({100 * numbers[n]['hits']:.0f})"


if __name__ == "__main__":
    main()

"""`nas matrix`: every space with every strategy, each pair a small job of the command line."""

import itertools
from collections.abc import Sequence

from nas import matrix
from nas.config import Parser
from nas.errors import Interrupted, RunError, UsageError
from nas.matrix import Result
from nas.plain import check_target, number, one_of, place, whole, write_whole
from nas.report import output
from nas.store.query import Row

FORMATS = (*output.FORMATS, "markdown")
COLUMNS = ("space", "strategy", "outcome", "trials", "objective", "best", "seconds", "why")


def main(argv: Sequence[str]) -> str:
    """Raises RunError, when all is printed and written, where a pair failed."""
    own, more = _split(argv)
    options = flags().parse_args(own)
    matrix.check_trials(options.trials)
    spaces = matrix.chosen("spaces", options.spaces, matrix.spaces(), "space")
    strategies = matrix.chosen("strategies", options.strategies, matrix.strategies(), "strategy")
    if options.out is not None:
        check_target(f"out={str(options.out)!r}", options.out)
    pairs = list(itertools.product(spaces, strategies))
    done: list[Result] = []
    output.tell(f"{len(pairs)} pairs, of which the first of each space takes longest: it compiles what others share")

    def hear(result: Result) -> None:
        done.append(result)
        output.tell(f"{len(done)} of {len(pairs)}  {said(result)}")

    try:
        results = matrix.matrix(pairs, options.trials, more, options.pair_seconds, hear)
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted: {len(done)} of {len(pairs)} pairs had run.") from None
    text = rendered(results, options.format)
    if options.out is not None:
        try:
            write_whole(options.out, text.encode())
        except (UsageError, RunError):
            output.say("nas", text)  # what has taken so long
            raise
        text = summary(results)
    failed = [result for result in results if result.outcome == "failed"]
    if failed:
        output.say("nas", text)
        raise RunError(f"{len(failed)} of {len(results)} pairs failed; the first: {said(failed[0])}")
    return text


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of this command, and what follows `--`, which is for each search."""
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def said(result: Result) -> str:
    pair = f"{result.space} with {result.strategy}: {result.outcome}"
    if result.why is not None:
        return f"{pair}: {result.why}"
    return f"{pair}, {result.trials} trials, {_best(result)}, {result.seconds:.1f} s"


def _best(result: Result) -> str:
    return f"best {result.metric} {output.number(str(result.metric), result.best)}"


def rendered(results: Sequence[Result], form: str) -> str:
    if form == "markdown":
        return as_markdown(results)
    rows = [_row(result) for result in results]
    if form == "table":
        return output.render(rows, COLUMNS, form) + "\n" + summary(results)
    commands = [{**row, "command": result.command} for row, result in zip(rows, results, strict=True)]
    return output.render(commands, (*COLUMNS, "command"), form)


def _row(result: Result) -> Row:
    values = (result.outcome, result.trials, result.metric, result.best, round(result.seconds, 2), result.why)
    return dict(zip(COLUMNS, (result.space, result.strategy, *values), strict=True))


def summary(results: Sequence[Result]) -> str:
    counts = {outcome: sum(each.outcome == outcome for each in results) for outcome in ("ran", "refused", "failed")}
    seconds = sum(result.seconds for result in results)
    return f"{', '.join(f'{count} {outcome}' for outcome, count in counts.items())}, in {seconds:.0f} s\n"


def as_markdown(results: Sequence[Result]) -> str:
    """A row for each strategy, a column for each space: the best of the trials and the seconds, or the number of the
    reason below."""
    spaces = list(dict.fromkeys(result.space for result in results))
    reasons = list(dict.fromkeys(result.why for result in results if result.why is not None))
    found = {(result.strategy, result.space): result for result in results}
    lines = ["| | " + " | ".join(f"`{space}`" for space in spaces) + " |", "|---" * (len(spaces) + 1) + "|"]
    for strategy in dict.fromkeys(result.strategy for result in results):
        cells = [_cell(found[strategy, space], reasons) for space in spaces if (strategy, space) in found]
        lines.append(f"| `{strategy}` | " + " | ".join(cells) + " |")
    listed = [f"{i}. {reason}" for i, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *listed, *([""] if listed else []), summary(results)])


def _cell(result: Result, reasons: list[str]) -> str:
    if result.why is not None:
        return f"{result.outcome} ({reasons.index(result.why) + 1})"
    best = output.number(str(result.metric), result.best)
    return f"{result.metric} {best}, {result.trials} trials, {result.seconds:.1f} s"


def flags() -> Parser:
    more = "What follows -- is added to each search, such as -- --seed 3. Exit status 1 where a pair failed."
    text = "Runs every space with every strategy, each pair as a small search of its own, of seconds to a minute."
    parser = Parser("nas matrix", description=text, epilog=more, allow_abbrev=False)
    parser.usage = "nas matrix [--FLAG VALUE ...] [-- FLAGS OF nas search]"
    names = "with commas between them, also of your own as FILE.py:CLASS (default: all of ours)"
    parser.add_argument("--spaces", metavar="NAME,...", help=names)
    parser.add_argument("--strategies", metavar="NAME,...", help=names)
    trials = "of each pair; a search by gradients has two epochs (default: %(default)s)"
    parser.add_argument("--trials", metavar="N", type=whole, default=matrix.TRIALS, help=trials)
    limit = "after which a pair has failed (default: %(default)s)"
    parser.add_argument("--pair-seconds", metavar="SECONDS", type=number, default=900.0, help=limit)
    form = "|".join(FORMATS)
    parser.add_argument("--format", type=one_of("format", FORMATS), default="table", metavar=form)
    parser.add_argument("--out", metavar="FILE", type=place, help="write the table to a file; what is printed counts")
    return parser

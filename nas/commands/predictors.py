"""`nas predictors`: what was learned from runs, saved, measured, asked for scores and handed on."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence

from nas.commands.parts import kinds_of_predictors
from nas.commands.trained import OWN_SPACE, own_space
from nas.config import Parser
from nas.errors import UsageError, one_line, unknown
from nas.metrics import outer, outward
from nas.plain import place, whole
from nas.report import output
from nas.report.command_lines import DEFAULT_STORE
from nas.seeds import check_seed
from nas.store.query import Row

COLUMNS = ("name", "kind", "space", "task", "objective", "rows", "kendall_tau", "created")


def main(argv: Sequence[str]) -> str:
    parser, commands = _parsers()
    if argv and argv[0] == "kinds":
        return kinds_of_predictors(argv[1:])
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise unknown("predictors command", argv[0], commands)
    options = parser.parse_args(argv)
    from nas.store.sql import Store

    with Store(options.store, create=options.answer is _import) as store:
        return options.answer(store, options)


@contextlib.contextmanager
def _of_card(name: str) -> Iterator[None]:
    """Raises UsageError where the card that a store has is not as one is written."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"predictor={name!r}: its card in the store is damaged: {one_line(error)}") from error


def _list(store, options: argparse.Namespace) -> str:
    rows = []
    for record in store.predictors():
        card = record["card"]
        with _of_card(record["name"]):
            about = {"space": card["space"]["name"], "rows": sum(card["rows"])}
            about |= {"task": card["task"], "objective": outer(card["objective"])}
            about["kendall_tau"] = card["quality"].get("kendall_tau")
        rows.append({name: record[name] for name in ("name", "kind", "created")} | about)
    return output.render(rows, COLUMNS, options.format)


def _show(store, options: argparse.Namespace) -> str:
    record = store.predictor(options.name)
    card = record.card
    facts: Row = {"name": record.name, "kind": record.kind, "path": record.path, "sha256": record.sha256}
    with _of_card(record.name):
        facts |= {"task": card["task"], **{name: outer(card[name]) for name in ("objective", "unit")}}
        facts |= {name: card[name] for name in ("rows", "digest")}
        facts |= {"space": card["space"]["name"], "fingerprint": card["fingerprint"]}
        facts |= {f"share_{name}": value for name, value in card.get("shares", {}).items()}
        facts |= {f"held_out_{name}": value for name, value in card["quality"].items()}
        facts |= {name: value for name, value in card["settings"].items()}
        facts |= {f"version_{name}": value for name, value in card["versions"].items()}
    if options.format != "table":
        return output.render([facts], facts, options.format)
    return "".join(f"{name:24} {value}\n" for name, value in facts.items())


def _fit(store, options: argparse.Namespace) -> str:
    from predictors import PREDICTORS

    if options.kind not in PREDICTORS:
        raise unknown("predictor", options.kind, PREDICTORS)
    if (options.from_run is None) == (options.from_runs is None):
        raise UsageError("from-run or from-runs must name what the predictor is fitted on")
    from nas.saved import predictor_jobs as jobs

    jobs.check_name(store, options.name)
    start = None if options.warm_start is None else jobs.open_saved(store, options.warm_start)
    if start is not None and start.card["kind"] != options.kind:
        raise UsageError(f"warm-start={options.warm_start!r} is a {start.card['kind']!r}, not a {options.kind!r}")
    runs = [options.from_run] if options.from_run else options.from_runs.split(",")
    fitted = jobs.fit_from_runs(store, options.kind, runs, objective=options.objective, start=start)
    path = jobs.save(store, options.name, fitted)
    row = {"name": options.name, "kind": options.kind, "rows": fitted.card["rows"][-1], "path": str(path)}
    row |= {f"held_out_{name}": value for name, value in fitted.card["quality"].items() if name != "rows"}
    return output.render([row], row, options.format)


def _evaluate(store, options: argparse.Namespace) -> str:
    from nas.saved.predictor_jobs import evaluate

    row = evaluate(store, options.name, options.on_run)
    return output.render([row], row, options.format)


def _score(store, options: argparse.Namespace) -> str:
    for field, value in (("sample", options.sample), ("top", options.top)):
        if value < 1:
            raise UsageError(f"{field}={value} must be at least 1")
    try:
        check_seed(options.seed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    from nas.config import build_space
    from nas.saved import predictor_jobs as jobs

    space = None if options.space is None else build_space(options.space)
    rows = jobs.score(jobs.open_saved(store, options.name), space, options.sample, options.top, options.seed)
    rows = [outward(row) for row in rows]
    return output.render(rows, rows[0], options.format)


def _export(store, options: argparse.Namespace) -> str:
    from nas.saved.predictor_jobs import export

    export(store, options.name, options.out)
    row = {"name": options.name, "out": str(options.out)}
    return output.render([row], row, options.format)


def _import(store, options: argparse.Namespace) -> str:
    from nas.saved.predictor_jobs import import_folder

    row = {"name": import_folder(store, options.folder, options.name), "from": str(options.folder)}
    return output.render([row], row, options.format)


def flags() -> Parser:
    return _parsers()[0]


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser("nas predictors", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, answer: Callable[..., str], text: str) -> Parser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(answer=answer)
        added.add_argument("--store", metavar="URL", default=DEFAULT_STORE, help="the database [%(default)s]")
        added.add_argument("--format", type=output.known_format, default="table", metavar="|".join(output.FORMATS))
        return added

    commands.add_parser("kinds", help="The kinds of predictors that there are.", add_help=False)
    command("list", _list, "All saved predictors.")
    show = command("show", _show, "The card of a predictor: what it is, what it learned from, how well it tells.")
    fit = command("fit", _fit, "Fit a predictor on what runs have measured, and save it.")
    fit.add_argument("kind", metavar="KIND", nargs="?", default="auto", help="see nas predictors kinds (default: auto)")
    fit.add_argument("--from-run", metavar="RUN", help="its name, the beginning of it, or latest")
    fit.add_argument("--from-runs", metavar="RUN,...", help="several, of the same space and data")
    fit.add_argument("--name", required=True, help="of the predictor")
    fit.add_argument("--objective", metavar="METRIC", help="what is predicted (default: the run's first objective)")
    fit.add_argument("--space", metavar="NAME", type=own_space, help=OWN_SPACE)
    fit.add_argument("--warm-start", metavar="NAME", help="go on from a saved predictor of the same kind")
    evaluate = command("evaluate", _evaluate, "How well a predictor tells what a run has measured.")
    evaluate.add_argument("--on-run", metavar="RUN", required=True)
    evaluate.add_argument("--space", metavar="NAME", type=own_space, help=OWN_SPACE)
    score = command("score", _score, "The best of many architectures by a predictor.")
    score.add_argument("--space", metavar="NAME[:PRESET]", help="refused unless it is the predictor's")
    score.add_argument("--sample", metavar="N", type=whole, default=100_000, help="random architectures [%(default)s]")
    score.add_argument("--top", metavar="K", type=whole, default=20, help="of which so many are listed [%(default)s]")
    score.add_argument("--seed", type=whole, default=0, help="of the sample [%(default)s]")
    export = command("export", _export, "Write a predictor to an empty folder.")
    export.add_argument("--out", metavar="DIR", type=place, required=True)
    for each in (show, evaluate, score, export):
        each.add_argument("name", metavar="NAME", help="of the predictor, or the beginning of it")
    bring = command("import", _import, "Check a predictor that somebody wrote, and keep it.")
    bring.add_argument("folder", metavar="DIR", type=place)
    bring.add_argument("--name", help="(default: the folder's)")
    return parser, commands.choices

"""`nas retrain`: the training of an architecture that is known already, from scratch, in a network of any size."""

from collections.abc import Sequence

from nas import config, output
from nas.errors import UsageError
from nas.interrupts import ended_by_sigterm
from nas.progress import Bar
from nas.store import Store

EPILOG = "Other flags are those of run_search.py: --task, --epochs (50), --name, --seed, --final.drop-path ..."


def main(argv: Sequence[str]) -> str:
    parser = config.Parser(prog="nas retrain", description=__doc__, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("architecture", metavar="ARCHITECTURE", help="its id, or SPACE:NAME of a published one")
    parser.add_argument("--preset", help="the size of the network; by default that of the search, or the space's first")
    parser.add_argument("--store", metavar="URL", default=config.Config.store, help="(default: %(default)s)")
    options, rest = parser.parse_known_args(argv)
    space, text = _found(options.architecture, options.preset, options.store)
    data, resume = config.parse(rest)
    for field in ("space", "architecture"):
        if field in data:
            raise UsageError(f"{field}={data[field]!r} cannot be set: ARCHITECTURE and --preset say what is trained")
    if data.get("store", options.store) != options.store:
        raise UsageError(f"store={data['store']!r} of the file is not that of the command: --store {data['store']}")
    if resume is not None:
        raise UsageError(f"resume={resume!r} is for run_search.py, which goes on with a retraining too")
    from nas import job  # after the question whether there is anything to train: it imports jax

    with Bar() as bar, ended_by_sigterm():
        given = {"workers": 0, "baselines": 0, **data, "space": space, "architecture": text, "store": options.store}
        outcome = job.search(given, reporter=bar)
    columns = ("role", "architecture", "standalone_error", "test_error", "macs", "params")
    return f"Run {outcome.name}:\n\n" + output.render(outcome.finals, columns, "table")


def _found(architecture: str, preset: str | None, url: str) -> tuple[config.Data | str, str]:
    """The space, as in a configuration, and the description of the architecture."""
    name, colon, text = architecture.partition(":")
    if colon:
        return f"{name}:{preset}" if preset else name, text
    with Store(url) as store:
        known = store.show(architecture)
        if preset is not None:
            return f"{known['space']}:{preset}", known["description"]
        if not known["scores"]:
            raise UsageError(f"architecture={architecture!r} has no score that says how large its network is; --preset")
        return store.run(known["scores"][-1]["run"]).config["given"]["space"], known["description"]

"""`nas retrain`: the training of an architecture that is known already, from scratch, in a network of any size.

One that a search has found is trained on the same data, unless --task names others. Fields of its space may be set, in
which its encoding means the same: nas-fpn:tiny --space.stacks 3 has three pyramids, of the same cells, in a row.
"""

import dataclasses
from collections.abc import Sequence

from nas import config
from nas.errors import UsageError
from nas.report.outcome import told
from nas.report.progress import Bar
from nas.store.overview import run_of
from nas.store.query import PUBLISHED
from nas.store.sql import Store
from nas.tasks import DETECTION

EPILOG = (
    "Other flags are those of run_search.py: --task, --image-size, --epochs (50), --name, --seed, --space.FIELD of the "
    "size of the network, --final.drop-path ..."
)
DATA = ("task", "data_dir", "image_size", "resize", "max_images", "skip_invalid", "pretrain", "pretrain_image_size")


@dataclasses.dataclass(frozen=True)
class _Found:
    space: config.Data | str  # as in a configuration
    text: str  # the description of the architecture
    run: str | None = None  # that found it
    data: config.Data = dataclasses.field(default_factory=dict)  # of that run, as in a configuration


def flags() -> config.Parser:
    parser = config.Parser(prog="nas retrain", description=__doc__, epilog=EPILOG, allow_abbrev=False)
    names = "its id, its description, or SPACE:NAME of a published one"
    parser.add_argument("architecture", metavar="ARCHITECTURE", help=names)
    parser.add_argument("--run", help="the run that found it, of which size and data are; by default the last one")
    parser.add_argument("--preset", help="the size of the network; by default that of the search, or the space's first")
    parser.add_argument("--store", metavar="URL", default=config.Config.store, help="(default: %(default)s)")
    parser.add_argument("--stack", metavar="N", help="so many pyramids in a row: --space.stacks of nas-fpn")
    anytime_help = "each of these is an exit, at which nas detect may leave the network: --space.anytime of nas-fpn"
    parser.add_argument("--anytime", action="store_true", help=anytime_help)
    return parser


def main(argv: Sequence[str]) -> str:
    options, rest = flags().parse_known_args(argv)
    found = _found(options.architecture, options.preset, options.store, options.run)
    if options.stack is not None:
        rest += [f"--space.{_of_neck(found.space, 'stacks', f'stack={options.stack}')}", options.stack]
    if options.anytime:
        rest.append(f"--space.{_of_neck(found.space, 'anytime', 'anytime=True')}")
    data, resume = config.parse(rest, space=found.space)
    if "architecture" in data:
        raise UsageError(f"architecture={data['architecture']!r} cannot be set: {config.SETTLED}")
    if data.get("store", options.store) != options.store:
        raise UsageError(f"store={data['store']!r} of the file is not that of the command: --store {data['store']}")
    if resume is not None:
        raise UsageError(f"resume={resume!r} is for run_search.py, which goes on with a retraining too")
    same = found.data
    if "task" in data:
        # What a detector was searched at is the size of its network too; other tasks have sizes of their own.
        boxes = all(str(each.get("task")).partition(":")[0] in DETECTION for each in (found.data, data))
        same = {name: same[name] for name in ("image_size",) if boxes and name in same}
    if "task" not in data and str(same.get("task", "")).startswith("table:"):
        raise UsageError(f"task={same['task']!r} of run {found.run!r} has no images to train on: name others by --task")
    from nas.job import run as job  # after the question whether there is anything to train: it imports jax

    with Bar() as bar:
        if "task" in same:
            which = "".join(f", {name}={same[name]}" for name in DATA[1:] if same.get(name) is not None)
            bar.say(f"On the data of run {found.run}: task={same['task']}{which}")
        given = {"workers": 0, "baselines": 0, **same, **data, "architecture": found.text}
        return told(job.search(given | {"store": options.store}, reporter=bar))


def _of_neck(space: config.Data | str, name: str, asked: str) -> str:
    """The field of a space, or of its neck, that says something of its stacked pyramids. Raises UsageError where there
    is none."""
    fields = config.fields_of(config.build_space(space))
    for field, part in ((name, fields), (f"neck.{name}", fields.get("neck"))):
        if isinstance(part, dict) and name in part:
            return field
    known = space if isinstance(space, str) else space["name"]
    raise UsageError(f"{asked} cannot be set: space={known!r} has no stacks")


def _found(architecture: str, preset: str | None, url: str, run: str | None) -> _Found:
    if run is None and PUBLISHED.match(architecture):
        name, _, text = architecture.partition(":")
        return _Found(f"{name}:{preset}" if preset else name, text)
    with Store(url) as store:
        known = store.show(architecture)
        chosen = run_of(architecture, known["scores"], None if run is None else store.run(run).name)
        if chosen is None:
            if preset is None:
                said = "has no score that says how large its network is, and on what; --preset and --task"
                raise UsageError(f"architecture={architecture!r} {said}")
            return _Found(f"{known['space']}:{preset}", known["description"])
        given = store.run(chosen).given
    data = {name: given[name] for name in DATA if given.get(name) is not None}
    space = f"{known['space']}:{preset}" if preset is not None else given.get("space", config.Config.space)
    return _Found(space, known["description"], chosen, data)

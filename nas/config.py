"""The configuration of a search, from a YAML file and flags; every error is one line that names the field.

A part that comes in kinds (space, strategy) is chosen by name, and its own fields are set beside it:
`--strategy evolution --strategy.population-size 40`, or in YAML `strategy: {name: evolution, population_size: 40}`.
"""

import argparse
import ast
import dataclasses
import inspect
import math
import operator
import os
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

from pydantic import TypeAdapter, ValidationError

from nas import registry
from nas.errors import UsageError, unknown
from nas.plain import by_type, read_yaml, shown
from nas.report.command_lines import DEFAULT_STORE
from nas.seeds import check_seed
from nas.store.query import parse_where
from nas.tasks import Resize, lasting_task
from nas.training.recipe import Lookup, Recipe
from strategies.screening import Screening

Data = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """A search job."""

    space: Any = "shufflenet"
    """The search space: shufflenet, nasbench201, darts or nasnet; with a size as NAME:PRESET; or of your own,
    FILE.py:CLASS or MODULE:CLASS. --space NAME --help lists its own fields."""
    strategy: Any = "evolution"
    """The search strategy: random, local-search, regularized-evolution, evolution, nsga2, reinforce, ppo, bayesian, nao
    or seminas; by gradients darts, gumbel-darts, snas, pc-darts or fair-darts; or of your own, FILE.py:CLASS or
    MODULE:CLASS. --strategy NAME --help lists its own fields."""
    task: str = "digits"
    """The data: digits, fashion-mnist or cifar10; npz:FILE, an archive with the arrays images [n, height, width,
    channels] and labels [n], or with those of train_, valid_ and test_; folder:DIR, in which CLASS/IMAGE or
    train|valid|test/CLASS/IMAGE are JPEG or PNG files; of your own, FILE.py:FUNCTION or MODULE:FUNCTION; or what was
    measured before, table:FILE."""
    data_dir: str | None = None
    """The folder of the data, where the task needs one."""
    image_size: int | None = None
    """Pixels of a side to which images are resized. By default square images keep their size, and others become squares
    of their shorter side (of their longer one where padded); a folder whose images are not all squares of one size
    becomes 32 x 32."""
    resize: Resize = "crop"
    """How images that are not square become square: crop scales the shorter side and keeps the centre, pad scales the
    longer side and fills up with black, stretch scales each side by itself."""
    max_images: int | None = None
    """Use only so many images for training and validation."""
    evaluator: Any = "supernet"
    """How candidates are scored: supernet, with shared weights; train, each from scratch by the recipe `final`;
    zero-cost, untrained; predicted, by a saved predictor; or by your own, FILE.py:CLASS or MODULE:CLASS.
    --evaluator NAME --help lists its own fields."""
    cost: str | None = None
    """A cost of your own, for limits and objectives: FILE.py:FUNCTION or MODULE:FUNCTION, called with the space and
    encodings."""
    trials: int = 200
    """Architectures to evaluate."""
    epochs: int = 50
    """Passes of a gradient strategy over the images that weights are trained on; each derives one architecture."""
    architecture: str | None = None
    """Search nothing: train this architecture, in the notation of the space or as a list of its choices, for `epochs`
    by the recipe `final`."""
    max_macs: float | None = None
    """Hard limit on the multiply-adds of one image."""
    max_params: float | None = None
    """Hard limit on the number of parameters."""
    limit: str | None = None
    """Hard limits on any costs, such as "macs <= 3e6 and pixel3_latency_ms <= 5"."""
    objectives: str = "error"
    """What is minimised, such as error,macs; strategies for one objective minimise the first. By default what the
    evaluator measures: the metric of the task; zero-cost minus_naswot; predicted the score that is predicted."""
    seed: int = 0
    """Of weights, batches, paths and proposals."""
    name: str | None = None
    """Of the run; by default space-strategy-task-seed."""
    store: str = DEFAULT_STORE
    """The database of all runs."""
    workers: int = 2
    """Ray workers; 0 evaluates in this process."""
    concurrency: int = 8
    """Trials asked for before the first of them is told. It shapes the search; the number of workers does not."""
    unordered: bool = False
    """Tell results as they arrive: keeps slow trials from holding up others, and gives up repeatability."""
    trial_seconds: float = 600.0
    """Time limit of one evaluation by a Ray worker; 0 for none."""
    ray_address: str | None = None
    """Join the Ray cluster at this address instead of starting one."""
    paths: Literal["uniform", "cost-binned"] = "uniform"
    """How the supernet's training samples paths: uniformly, or uniformly over bins of multiply-adds."""
    cost_bins: int = 7
    """Bins of cost-binned sampling."""
    table: Lookup = Lookup()
    """What is looked up in a table."""
    prescreen: str | None = None
    """Evaluate only what a predictor finds promising: a saved one by name, or a kind that is fitted on the way."""
    screening: Screening = Screening()
    """How it screens."""
    warm_start: str | None = None
    """The saved predictor from which the strategy's own goes on (nao, seminas)."""
    save_predictor: str | None = None
    """Save what the strategy's predictor has learned from all trials, under this name."""
    training: Recipe = Recipe(steps=2500, batch_size=64, learning_rate=0.2)
    """The recipe of the supernet."""
    final: Recipe = Recipe(steps=1000, batch_size=64)
    """The recipe of training from scratch."""
    finalists: int = 1
    """How many of the best architectures are trained from scratch and tested."""
    baselines: int = 1
    """How many random architectures of no greater cost than the best are trained beside them."""

    def __post_init__(self):
        least = {
            "trials": 1,
            "epochs": 1,
            "workers": 0,
            "concurrency": 1,
            "trial_seconds": 0,
            "cost_bins": 1,
        }
        least |= {"finalists": 0, "baselines": 0}
        for field, low in least.items():
            if not getattr(self, field) >= low:
                raise ValueError(f"{field}={getattr(self, field)} must be at least {low}")
        check_seed(self.seed)
        names = self.objectives.split(",")
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"objectives={self.objectives!r} must be different names, such as error,macs")
        _ = self.limits

    @property
    def objective(self) -> str:
        """The first: what finalists are chosen by."""
        return self.objectives.split(",")[0]

    @property
    def limits(self) -> tuple[tuple[str, float], ...]:
        given = {"macs": self.max_macs, "params": self.max_params}
        for name, most in given.items():
            if most is not None and math.isnan(most):
                raise ValueError(f"max_{name}={most} must be a number")
        return tuple((name, float(most)) for name, most in given.items() if most is not None) + parse_limits(self.limit)


def parse_limits(text: str | None) -> tuple[tuple[str, float], ...]:
    """The limits in `name <= number and ...`. Raises UsageError."""
    conditions = [] if text is None else parse_where(text, "limit")
    for name, compare, _ in conditions:
        if compare is not operator.le:
            raise UsageError(f"limit={text!r}: the most that {name} may be is written with <=")
    return tuple((name, most) for name, _, most in conditions)


# What comes in kinds, with fields of its own: see `BUILDERS`.
PARTS = ("space", "strategy", "evaluator")
# What the task and the objectives decide, not the user.
BOUND = ("image_size", "image_channels", "num_classes", "num_objectives")
# Fields with fields of their own.
NESTED = ("table", "screening", "training", "final")
# What may differ when a run is resumed: where it runs, not what it computes.
RESUMABLE = ("store", "workers", "trial_seconds", "ray_address", "data_dir")


def build(data: Data) -> Config:
    """The configuration of nested plain data, as in YAML. Raises UsageError."""
    data = dict(data)
    strategy, space = (data.get(part, getattr(Config, part)) for part in ("strategy", "space"))
    for name in _named(space, "space")[1]:
        if name.replace("-", "_") in BOUND:
            raise UsageError(f"space.{name} cannot be set: it is the task's (--image-size resizes the images)")
    for name in _named(strategy, "strategy")[1]:
        if name.replace("-", "_") in BOUND:
            raise UsageError(f"strategy.{name} cannot be set: it follows from --objectives")
    data["strategy"], data["space"] = build_strategy(strategy), build_space(space)
    data["evaluator"] = build_evaluator(data.get("evaluator", Config.evaluator))
    if data.get("cost") is not None:
        name = _checked(str, data["cost"], "cost")
        if not registry.is_own("cost", name):
            raise UsageError(f"cost={name!r} must be FILE.py:FUNCTION or MODULE:FUNCTION")
        registry.own("cost", name)
    data["architecture"] = _architecture(data["space"], data.get("architecture"))
    config = _replace(_defaults(_named(strategy, "strategy")[0]), data, "")
    if "num_objectives" in {field.name for field in dataclasses.fields(config.strategy)}:
        count = len(config.objectives.split(","))
        config = dataclasses.replace(config, strategy=dataclasses.replace(config.strategy, num_objectives=count))
    return config


def _defaults(strategy: str) -> Config:
    """Of a strategy by name: a gradient strategy brings its own recipe for the weights."""
    from strategies import RECIPES

    return Config(training=Recipe(**RECIPES[strategy])) if strategy in RECIPES else Config()


def build_strategy(data: Any) -> Any:
    return _built("strategy", data)


def build_predictor(data: Any, *, given: bool = True) -> Any:
    return _built("predictor", data, given)


def build_space(data: Any, *, given: bool = True) -> Any:
    return _built("space", data, given)


def build_evaluator(data: Any) -> Any:
    value, name = _built("evaluator", data), _named(data, "evaluator")[0]
    if registry.is_own("evaluator", name):
        from nas.evaluators.own import check

        check(name, value)
    return value


BUILDERS = dict(zip(PARTS, (build_space, build_strategy, build_evaluator), strict=True))


def _built(kind: str, data: Any, given: bool = True) -> Any:
    """The part of plain data. `given` says whether its name comes from the user: see `nas.registry`."""
    name, fields = _named(data, kind)
    return _replace(default_of(kind, name, given=given), fields, f"{kind}.")


def default_of(kind: str, name: str, *, given: bool = True) -> Any:
    """The part of a name, with its own values of all fields. Raises UsageError."""
    if registry.is_own(kind, name, given=given):
        return registry.value(kind, name, given=given)
    head, _, preset = name.partition(":") if kind == "space" else (name, "", "")
    if head not in registry.ours(kind):
        raise unknown(kind, name, registry.ours(kind))
    if kind == "strategy":
        from strategies import strategy_class

        return strategy_class(name)()
    if kind == "predictor":
        from predictors import predictor_class

        return predictor_class(name)()
    if kind == "evaluator":
        from nas.evaluators import evaluator_class

        return evaluator_class(name)()
    from spaces import presets

    choices = presets(head)
    if preset and preset not in choices:
        raise unknown("space", name, [f"{head}:{each}" for each in choices])
    return choices[preset or next(iter(choices))]


def from_values(options: Mapping[str, Any]) -> Data:
    """The options of a Python caller, with names and fields in place of values. Raises UsageError."""
    data = dict(options)
    for kind in PARTS:
        part = data.get(kind, "")
        if isinstance(part, str | Mapping):
            continue
        if not dataclasses.is_dataclass(part) or isinstance(part, type):
            said = type(part).__name__
            raise UsageError(f"{kind}={said!r} must be a name, a mapping with a name and fields, or the value itself")
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
        fields = {name: value for name, value in fields.items() if name not in BOUND}
        data[kind] = {"name": _name_of(kind, type(part)), **fields}
    if not isinstance(data.get("task", ""), str):
        data["task"] = _held(data["task"])
    if callable(data.get("cost")):
        data["cost"] = registry.name_of("cost", data["cost"])
    return data


def _name_of(kind: str, cls: type) -> str:
    if cls.__module__.partition(".")[0] in ("spaces", "strategies", "nas"):
        for name in registry.ours(kind):
            if type(default_of(kind, name)) is cls:
                return name
    return registry.name_of(kind, cls)


def _held(task: Any) -> str:
    """A name for a function, or for data in the memory of this process: the same for the same data."""
    if callable(task) and hasattr(task, "__qualname__"):
        return registry.name_of("task", task)
    from nas.tasks.base import digest_of, own_images

    raw = own_images("arrays", task)
    arrays = [array for pair in (raw.train, raw.valid, raw.test) for array in pair or ()]
    name = f"arrays:{digest_of((raw.num_classes, raw.classes), arrays)[:12]}"
    registry.hold("task", name, task)
    return name


def _architecture(space: Any, given: Any) -> str | None:
    """In the notation of the space, of which nothing else is checked here: who trains it reads it."""
    if given is None or isinstance(given, str):
        return given
    given = given.tolist() if hasattr(given, "tolist") else given
    sizes = space.cardinalities
    choices = [by_type(int, each) for each in given] if isinstance(given, list | tuple) else []
    if len(choices) != len(sizes):
        raise UsageError(f"architecture={shown(given)} must be a text, or a list of {len(sizes)} choices")
    for i, (choice, size) in enumerate(zip(choices, sizes, strict=True)):
        if type(choice) is not int or not 0 <= choice < size:
            raise UsageError(f"architecture[{i}]={shown(repr(choice))} must be an integer in 0..{size - 1}")
    import numpy as np  # building the space has imported it already

    return space.describe(np.array(choices, np.int32))


def to_data(config: Config, given: Data) -> Data:
    """The whole configuration as plain data that `build` reads: names as given, every field with its value."""
    data = dataclasses.asdict(config)
    for part in PARTS:
        if isinstance(data[part], str):
            continue
        name, _ = _named(given.get(part, getattr(Config, part)), part)
        fields = {key: value for key, value in data[part].items() if key not in BOUND}
        data[part] = {"name": registry.lasting(name), **fields}
    data["task"] = lasting_task(config.task)
    if config.cost is not None:
        data["cost"] = registry.lasting(config.cost)
    if config.data_dir is not None:
        data["data_dir"] = os.path.abspath(os.path.expanduser(config.data_dir))
    return data


def same_part(part: str, given: Any, stored: Data) -> bool:
    """Whether a field gives the space, strategy or task that a stored run has, with no field that differs."""
    if part == "cost":
        return isinstance(given, str) and registry.lasting(given) == stored.get("cost")
    if part not in (*PARTS, "task"):
        return False
    before = stored.get(part, getattr(Config, part))
    (name, fields), (kept_name, kept) = (_named(each, part) for each in (given, before))
    if part == "task":
        return kept_name in (name, lasting_task(name))
    if kept_name not in (name, registry.lasting(name)):
        return False
    fields = {key.replace("-", "_"): value for key, value in fields.items()}
    build_part = BUILDERS[part]
    return build_part({"name": name, **kept, **fields}) == build_part({"name": name, **kept})


def names(data: Data) -> dict[str, str]:
    """The names of the space (without preset), the strategy and the task of plain data."""
    space, strategy = (_named(data.get(part, getattr(Config, part)), part)[0] for part in ("space", "strategy"))
    strategy = strategy if data.get("architecture") is None else "retrain"
    if not registry.is_own("space", space):
        space = space.partition(":")[0]
    return {
        "space": registry.portable(space),
        "strategy": registry.portable(strategy),
        "task": registry.portable(data.get("task", Config.task)),
    }


def _named(data: Any, part: str) -> tuple[str, Data]:
    if isinstance(data, str):
        return data, {}
    default = getattr(Config, part, None)
    if isinstance(data, Mapping) and isinstance(data.get("name", default), str):
        fields = dict(data)
        return fields.pop("name", default), fields
    raise UsageError(f"{part}={data!r} must be a name, or a mapping with a name and fields")


def _replace(value: Any, data: Any, where: str) -> Any:
    """The dataclass value with the fields in `data`, each checked against its type."""
    data = _mapping(data, where.rstrip(".") or "config")
    hints = typing.get_type_hints(type(value))
    allowed = [field.name for field in dataclasses.fields(value)]
    changes = {}
    for key, raw in data.items():
        name = str(key).replace("-", "_")
        if name not in allowed:
            raise unknown(f"field {where}{key}", key, allowed)
        old = getattr(value, name)
        if dataclasses.is_dataclass(hints[name]):
            changes[name] = _replace(old, raw, f"{where}{name}.")
        else:
            changes[name] = _checked(hints[name], raw, where + name)
    try:
        return dataclasses.replace(value, **changes)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{where}{error}") from error


def _mapping(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}={data!r} must be a mapping of fields")
    return data


def _checked(hint: Any, raw: Any, where: str) -> Any:
    try:
        return TypeAdapter(hint).validate_python(by_type(hint, raw), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        if isinstance(raw, str | list | tuple) and wrong["loc"] and isinstance(wrong["loc"][0], int):  # of a list
            raw, where = wrong["input"], f"{where}[{wrong['loc'][0]}]"
        said = wrong["msg"].replace("Input should be", "must be").replace("a valid boolean", "true or false")
        said += ", in decimal digits" if isinstance(raw, str) and wrong["type"] == "int_type" else ""
        raise UsageError(f"{where}={shown(repr(raw))} {said[0].lower()}{said[1:]}") from None


# Flags.


class Parser(argparse.ArgumentParser):
    """Complains by an exception, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(argv: Sequence[str]) -> tuple[Data, str | None]:
    """The plain data of file and flags, flags winning, and the run to resume. Prints and exits for --help."""
    first = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--config", *(f"--{part}" for part in PARTS)):
        first.add_argument(flag)
    chosen, rest = first.parse_known_args(argv)
    data = {} if chosen.config is None else read_yaml(chosen.config)
    for part in PARTS:
        if getattr(chosen, part) is not None:
            data[part] = getattr(chosen, part)
    asks_help = any(word in ("-h", "--help") for word in rest)
    parts = {}
    for part, make in BUILDERS.items():
        touched = data.get(part) is not None or any(word.startswith(f"--{part}.") for word in rest)
        if touched or not asks_help:  # help alone answers without importing JAX
            parts[part] = make(data.get(part, getattr(Config, part)))
    parser = _parser(parts, _named(data.get("strategy", Config.strategy), "strategy")[0])
    options, strangers = parser.parse_known_args(argv)
    if strangers:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise unknown("flag", strangers[0].partition("=")[0], flags)
    given = {key: value for key, value in vars(options).items() if value is not None}
    resume = given.pop("resume", None)
    for key in ("config", *PARTS):
        given.pop(key, None)
    for key, value in given.items():
        part, dot, name = key.partition(".")
        if not dot:
            data[part] = value
            continue
        if part in PARTS:
            chosen_name, fields = _named(data.get(part, getattr(Config, part)), part)
            data[part] = {"name": chosen_name, **_with(fields, name, value)}
        else:
            data[part] = _with(_mapping(data.get(part, {}), part), name, value)
    return data, resume


def _with(data: Mapping[str, Any], name: str, value: Any) -> Data:
    """The mapping with one field set; a dot leads into a field with fields of its own."""
    outer, dot, inner = name.partition(".")
    return {**data, outer: _with(_mapping(data.get(outer, {}), outer), inner, value) if dot else value}


def _parser(parts: Mapping[str, Any], strategy: str) -> Parser:
    parser = Parser(
        prog="run_search.py",
        usage="%(prog)s [--FLAG VALUE ...]",
        allow_abbrev=False,
        description="Search for a neural architecture, train the best one, and store everything.",
        epilog="Defaults are in brackets. What was found is queried by `nas runs`, `nas top RUN`, `nas show ID`.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML with the same fields as the flags, which win")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, as if it had not been")
    _add_fields(parser, Config(), "", skip=NESTED)
    defaults = _defaults(strategy)
    nested = {name: getattr(defaults, name) for name in NESTED}
    for name, value in {**nested, **parts}.items():
        if isinstance(value, str):
            continue
        _add_fields(parser.add_argument_group(name), value, f"{name}.", skip=BOUND)
    return parser


def _add_fields(parser: Any, value: Any, prefix: str, skip: Sequence[str] = ()) -> None:
    kinds = [kind for kind in reversed(type(value).__mro__) if dataclasses.is_dataclass(kind)]
    help_texts = {name: text for kind in kinds for name, text in _docstrings(kind)}
    for field in dataclasses.fields(value):
        if field.name in skip:
            continue
        flag, default = "--" + (prefix + field.name).replace("_", "-"), getattr(value, field.name)
        if dataclasses.is_dataclass(default):
            _add_fields(parser, default, f"{prefix}{field.name}.", skip)
            continue
        text = f"{help_texts.get(field.name, '')}{_choices(type(value), field.name)} [{default}]"
        text = text.strip().replace("%", "%%")
        options: Data = {"dest": prefix + field.name, "default": None, "help": text}
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            parser.add_argument(flag, metavar=field.name.upper(), **options)  # text, which the field's type reads


def _choices(kind: type, field: str) -> str:
    """What a field of a few words may be, for its help."""
    hint = typing.get_type_hints(kind)[field]
    return f" One of {', '.join(typing.get_args(hint))}." if typing.get_origin(hint) is Literal else ""


def _docstrings(kind: type) -> Iterator[tuple[str, str]]:
    """The string under each field of a class."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):  # of the user's own, made by a function
        return
    assert isinstance(body, ast.ClassDef)
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            yield field.target.id, ast.literal_eval(text.value)

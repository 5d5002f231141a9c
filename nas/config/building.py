"""From plain data, as in YAML, to the values of a job, and back. Every error is one line that names the field."""

import dataclasses
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from nas import registry
from nas.config.values import BOUND, PARTS, Config, Data
from nas.errors import UsageError, unknown
from nas.plain import by_type, shown
from nas.report import logs
from nas.tasks import lasting_task
from nas.training.recipe import Recipe


def build(data: Data) -> Config:
    """The configuration of nested plain data, as in YAML. Raises UsageError."""
    data = dict(data)
    strategy, space = (data.get(part, getattr(Config, part)) for part in ("strategy", "space"))
    for name in _fields(named(space, "space")[1]):
        last = name.rpartition(".")[2].replace("-", "_")
        if last in BOUND:
            whose = "the backbone's" if last == "map_widths" else "the task's (--image-size resizes the images)"
            raise UsageError(f"space.{name} cannot be set: it is {whose}")
    for name in named(strategy, "strategy")[1]:
        if name.replace("-", "_") in BOUND:
            raise UsageError(f"strategy.{name} cannot be set: it follows from --objectives")
    data["strategy"], data["space"] = build_strategy(strategy), build_space(space)
    data["evaluator"] = build_evaluator(data.get("evaluator", Config.evaluator))
    if data.get("cost") is not None:
        name = _checked(str, data["cost"], "cost")
        if not registry.is_own("cost", name):
            raise UsageError(f"cost={name!r} must be FILE.py:FUNCTION or MODULE:FUNCTION")
        registry.own("cost", name)
    logs.check(None if data.get("log") is None else _checked(str, data["log"], "log"))
    data["architecture"] = _architecture(data["space"], data.get("architecture"))
    config = _replace(defaults(named(strategy, "strategy")[0]), data, "")
    if "num_objectives" in {field.name for field in dataclasses.fields(config.strategy)}:
        count = len(config.objectives.split(","))
        config = dataclasses.replace(config, strategy=dataclasses.replace(config.strategy, num_objectives=count))
    return config


def _fields(data: Data) -> Iterator[str]:
    """The names of all fields; a dot leads into a field with fields of its own."""
    for name, value in data.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from (f"{name}.{each}" for each in _fields(dict(value)))


def _own(data: Any) -> Any:
    """The fields that are the user's to set."""
    if not isinstance(data, Mapping):
        return data
    return {name: _own(value) for name, value in data.items() if name not in BOUND}


def defaults(strategy: str) -> Config:
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
    value, name = _built("evaluator", data), named(data, "evaluator")[0]
    if registry.is_own("evaluator", name):
        from nas.evaluators.own import check

        check(name, value)
    return value


BUILDERS = dict(zip(PARTS, (build_space, build_strategy, build_evaluator), strict=True))


def _built(kind: str, data: Any, given: bool = True) -> Any:
    """The part of plain data. `given` says whether its name comes from the user: see `nas.registry`."""
    name, fields = named(data, kind)
    return _replace(default_of(kind, name, given=given), fields, f"{kind}.")


def default_of(kind: str, name: str, *, given: bool = True) -> Any:
    """The part of a name, with its own values of all fields. Raises UsageError."""
    if registry.factors(kind, name):
        return _product(name, given)
    if registry.is_own(kind, name, given=given):
        made = registry.value(kind, name, given=given)
        _check_free(kind, made)
        return made
    head, _, preset = name.partition(":") if kind == "space" else (name, "", "")
    if head not in registry.ours(kind):
        raise unknown(kind, name, (*registry.ours(kind), *registry.entry_points(kind)))
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


def _product(name: str, given: bool) -> Any:
    """The product of two spaces by name. Of a backbone without a preset it is the first that gives what a neck takes.
    Raises UsageError."""
    from spaces import presets
    from spaces.product import Product

    first, second = registry.factors("space", name) or ("", "")
    neck = default_of("space", second, given=given)
    names = [f"{first}:{preset}" for preset in presets(first)] if first in registry.ours("space") else [first]
    errors = []
    for each in names:
        try:
            return Product(default_of("space", each, given=given), neck)
        except ValueError as error:
            errors.append(error)
    raise UsageError(f"space={name!r}: {errors[0]}") from errors[0]


def from_values(options: Mapping[str, Any]) -> Data:
    """The options of a Python caller, with names and fields in place of values. Raises UsageError."""
    data = dict(options)
    for kind in PARTS:
        part = data.get(kind, "")
        if isinstance(part, str | Mapping):
            continue
        if not dataclasses.is_dataclass(part) or isinstance(part, type):
            said = part.__name__ if isinstance(part, type) else type(part).__name__
            value = f"a value, such as {said}()" if isinstance(part, type) else "the value itself"
            raise UsageError(f"{kind}={said!r} must be a name, a mapping with a name and fields, or {value}")
        _check_free(kind, part)
        data[kind] = {"name": _name_of(kind, part), **_own(fields_of(part))}
    if not isinstance(data.get("task", ""), str):
        data["task"] = _held(data["task"])
    if callable(data.get("cost")):
        data["cost"] = registry.name_of("cost", data["cost"])
    return data


def fields_of(value: Any) -> Data:
    """The fields of a part that can be set, those of fields that are dataclasses as mappings of their own."""
    values = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return {name: fields_of(each) if _has_fields(each) else each for name, each in values.items()}


def _has_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _check_free(kind: str, part: Any) -> None:
    """Raises UsageError where a part of the user's own has a field that is called as what says which part it is."""
    if "name" in fields_of(part):
        raise UsageError(f"{kind}={type(part).__name__!r}: no field of it may be called 'name', by which it is chosen")


def _is_product(part: Any) -> bool:
    from spaces.product import Product

    return isinstance(part, Product)


def _name_of(kind: str, part: Any) -> str:
    if _is_product(part):
        return "+".join(_name_of(kind, each) for each in (part.backbone, part.neck))
    cls = type(part)
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
    data = fields_of(config)
    for part in PARTS:
        name, _ = named(given.get(part, getattr(Config, part)), part)
        data[part] = {"name": of_factors(registry.lasting, part, name), **_own(data[part])}
    data["task"] = lasting_task(config.task)
    if config.pretrain is not None:
        data["pretrain"] = lasting_task(config.pretrain)
    for name in ("cost", "prescreen"):
        if data[name] is not None:
            data[name] = registry.lasting(data[name])
    data["log"] = logs.lasting(config.log)
    for name in ("data_dir", "latency"):
        if data[name] is not None:
            data[name] = absolute(data[name])
    return data


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def names(data: Data) -> dict[str, str]:
    """The names of the space (without preset), the strategy and the task of plain data."""
    space, strategy = (named(data.get(part, getattr(Config, part)), part)[0] for part in ("space", "strategy"))
    strategy = strategy if data.get("architecture") is None else "retrain"

    def short(space: str) -> str:
        return registry.portable(space if registry.is_own("space", space) else space.partition(":")[0])

    return {
        "space": of_factors(short, "space", space),
        "strategy": registry.portable(strategy),
        "task": registry.portable(data.get("task", Config.task)),
    }


def of_factors(change: Callable[[str], str], part: str, name: str) -> str:
    """The name of a part changed; of a product of spaces that of each factor."""
    return "+".join(map(change, registry.factors(part, name) or (name,)))


def named(data: Any, part: str) -> tuple[str, Data]:
    if isinstance(data, str):
        return data, {}
    default = getattr(Config, part, None)
    if isinstance(data, Mapping) and isinstance(data.get("name", default), str):
        fields = {str(key): value for key, value in data.items()}
        return fields.pop("name", default), fields
    raise UsageError(f"{part}={shown(data)} must be a name, or a mapping with a name and fields")


def _replace(value: Any, data: Any, where: str) -> Any:
    """The dataclass value with the fields in `data`, each checked against its type."""
    data = mapping(data, where.rstrip(".") or "config")
    try:
        hints = typing.get_type_hints(type(value))
    except Exception as error:  # of a class of the user's own
        said = f"the types of the fields of {type(value).__name__} cannot be read"
        raise UsageError(f"{where.rstrip('.')}: {said}: {registry.told(error)}") from error
    allowed = [field.name for field in dataclasses.fields(value) if field.init]
    changes = {}
    for key, raw in data.items():
        name = str(key).replace("-", "_")
        if name not in allowed:
            raise unknown(f"field {where}{key}", key, allowed)
        old = getattr(value, name)
        if dataclasses.is_dataclass(hints[name]) or (hints[name] is Any and dataclasses.is_dataclass(old)):
            changes[name] = _replace(old, raw, f"{where}{name}.")
        else:
            changes[name] = _checked(hints[name], raw, where + name)
    try:
        return dataclasses.replace(value, **changes)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{where}{error}") from error
    except Exception as error:  # of a class of the user's own
        raise UsageError(f"{where.rstrip('.')}: {registry.told(error)}") from error


def mapping(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}={shown(data)} must be a mapping of fields")
    return data


def _checked(hint: Any, raw: Any, where: str) -> Any:
    try:
        adapter = TypeAdapter(hint)
    except (PydanticUserError, NameError) as error:
        called = getattr(hint, "__name__", str(hint))
        allowed = "numbers, texts and truths, tuples of these, and dataclasses"
        raise UsageError(f"{where} cannot be set: it is of type {called}; allowed: {allowed}") from error
    try:
        return adapter.validate_python(by_type(hint, raw), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        if isinstance(raw, str | list | tuple) and wrong["loc"] and isinstance(wrong["loc"][0], int):  # of a list
            raw, where = wrong["input"], f"{where}[{wrong['loc'][0]}]"
        said = wrong["msg"].replace("Input should be", "must be").replace("a valid boolean", "true or false")
        said += ", in decimal digits" if isinstance(raw, str) and wrong["type"] == "int_type" else ""
        raise UsageError(f"{where}={shown(repr(raw))} {said[0].lower()}{said[1:]}") from None

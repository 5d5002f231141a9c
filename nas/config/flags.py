"""Flags and their help, from the fields of the values that they set and the strings under these."""

import argparse
import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

from nas.config.building import BUILDERS, defaults, mapping, named
from nas.config.values import BOUND, GROUPS, NESTED, PARTS, Config, Data
from nas.config.yaml_files import read_yaml
from nas.errors import Answered, UsageError, unknown

HELP = ("-h", "--help", "--help-all")
SETTLED = "ARCHITECTURE and --preset say what is trained"


class Parser(argparse.ArgumentParser):
    """Complains by an exception, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise Answered(status)


def parse(argv: Sequence[str], space: Data | str | None = None, program: str = "nas search") -> tuple[Data, str | None]:
    """The plain data of file and flags, flags winning, and the run to resume. Prints and exits for --help.

    With a space, that is the one, of which flags set fields alone. Raises UsageError where another is named.
    """
    first = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--config", *(f"--{part}" for part in PARTS)):
        first.add_argument(flag)
    chosen, rest = first.parse_known_args(argv)
    data = {} if chosen.config is None else read_yaml(chosen.config)
    for part in PARTS:
        if getattr(chosen, part) is not None:
            data[part] = getattr(chosen, part)
    if space is not None:
        if data.get("space") is not None:
            raise UsageError(f"space={data['space']!r} cannot be set: {SETTLED}")
        data["space"] = space
    asks_help = any(word in HELP for word in rest)
    parts = {}
    for part, make in BUILDERS.items():
        touched = data.get(part) is not None or any(word.startswith(f"--{part}.") for word in rest)
        if touched or not asks_help:  # help alone answers without importing JAX
            parts[part] = make(data.get(part, getattr(Config, part)))
    parser = _parser(program, parts, named(data.get("strategy", Config.strategy), "strategy")[0], full=HELP[-1] in rest)
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
            chosen_name, fields = named(data.get(part, getattr(Config, part)), part)
            data[part] = {"name": chosen_name, **_with(fields, name, value)}
        else:
            data[part] = _with(mapping(data.get(part, {}), part), name, value)
    return data, resume


def parser_of_all(program: str) -> Parser:
    """The parser of a search with the parts that it has by default, and with the fields of recipes."""
    return _parser(
        program, {part: make(getattr(Config, part)) for part, make in BUILDERS.items()}, Config.strategy, full=True
    )


def _with(data: Mapping[str, Any], name: str, value: Any) -> Data:
    """The mapping with one field set; a dot leads into a field with fields of its own."""
    outer, dot, inner = name.partition(".")
    return {**data, outer: _with(mapping(data.get(outer, {}), outer), inner, value) if dot else value}


def _parser(program: str, parts: Mapping[str, Any], strategy: str, *, full: bool) -> Parser:
    """`full` says whether the help shows the fields of recipes too, of which there are many."""
    parser = Parser(
        prog=program,
        usage="%(prog)s [--FLAG VALUE ...]",
        allow_abbrev=False,
        add_help=False,
        description="Search for a neural architecture, train the best one, and store everything.",
        epilog="Defaults are in brackets. `nas spaces`, `nas strategies`, `nas tasks` and `nas evaluators` say what "
        "there is. What was found is queried by `nas runs`, `nas top RUN`, `nas show ID`.",
    )
    parser.add_argument(*HELP[:2], action="help", help="show this")
    parser.add_argument(HELP[2], action="help", help="show the fields of recipes too: --training.FIELD and the like")
    parser.add_argument("--config", metavar="FILE", help="YAML with the same fields as the flags, which win")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, as if it had not been")
    for title, names in GROUPS.items():
        _add_fields(parser.add_argument_group(title), Config(), "", names)
    for name, value in parts.items():
        _add_fields(parser.add_argument_group(f"fields of the {name}"), value, f"{name}.", _own_fields(value))
    recipes = defaults(strategy)
    for name in NESTED:
        value = getattr(recipes, name)
        _add_fields(parser.add_argument_group(name), value, f"{name}.", _own_fields(value), hidden=not full)
    return parser


def _own_fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value) if field.name not in BOUND]


def _add_fields(parser: Any, value: Any, prefix: str, names: Sequence[str], hidden: bool = False) -> None:
    kinds = [kind for kind in reversed(type(value).__mro__) if dataclasses.is_dataclass(kind)]
    help_texts = {name: text for kind in kinds for name, text in _docstrings(kind)}
    fields = {field.name: field for field in dataclasses.fields(value) if field.init}
    for field in (fields[name] for name in names if name in fields):
        flag, default = "--" + (prefix + field.name).replace("_", "-"), getattr(value, field.name)
        if dataclasses.is_dataclass(default):
            _add_fields(parser, default, f"{prefix}{field.name}.", _own_fields(default), hidden)
            continue
        shown = "" if default is None else f" [{default}]"
        text = f"{help_texts.get(field.name, '')}{_choices(type(value), field.name)}{shown}"
        text = text.strip().replace("%", "%%")
        options: Data = {"dest": prefix + field.name, "default": None, "help": argparse.SUPPRESS if hidden else text}
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

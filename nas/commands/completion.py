"""Prints a script by which a shell completes the commands of nas, their flags, and what these may be.

eval "$(nas completion bash)"
nas completion zsh > ~/.zfunc/_nas
"""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

import shtab

from nas import config, registry
from nas.commands import outside, parts, tables
from nas.config import Parser

# Commands whose parser has a module of its own, as its function `flags`.
MODULES = ("compare", "matrix", "data", "latency", "predictors", "retrain", "export", "predict", "detect", "evaluate")
FOLDERS, FILES = ("DIR", "DATA_DIR", "FOLDER"), ("FILE", "CONFIG", "LATENCY", "IMAGES")


def flags() -> Parser:
    parser = Parser("nas completion", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "shell", metavar="SHELL", choices=shtab.SUPPORTED_SHELLS, help=", ".join(shtab.SUPPORTED_SHELLS)
    )
    return parser


def script(argv: Sequence[str], parser: argparse.ArgumentParser, commands: dict[str, Any]) -> str:
    """`nas completion`: what it prints, of the parser of the whole line and those of its commands by name. These are
    given the flags of commands that read their own lines, and then complete, and read none."""
    shell = flags().parse_args(argv).shell
    own = {name: importlib.import_module(f"nas.commands.{name}").flags() for name in MODULES}
    own |= {"search": config.parser_of_all("nas search"), "table": tables.flags(), "completion": flags()}
    own |= {"ask": outside.asking(), "tell": outside.telling()}
    own |= {name: parts.flags(f"nas {name}", "") for name in ("spaces", "strategies", "tasks", "evaluators")}
    commands.update(own)
    _tell_apart(parser)
    return shtab.complete(parser, shell=shell) + "\n"


def _tell_apart(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _tell_apart(inner)
        elif action.dest in config.PARTS and action.option_strings:
            action.choices = registry.ours(action.dest)
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]

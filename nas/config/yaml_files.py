"""Configurations as YAML in which every word is what it looks like.

YAML 1.1 takes 010 for 8, yes for true, 10:30 for 630 and 1e-3 for text, and of equal keys the last. Here numbers are
decimal, true and false are the only words that are no text, and equal keys are refused. So are aliases and tags, with
which a short file can fill the memory or ask for any Python object.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from nas.errors import UsageError
from nas.plain import DECIMAL, WHOLE, read_bounded, shown

MOST_BYTES = 2**18  # of a file; PyYAML reads some 100 kB a second
MOST_LEVELS = 20  # of values in values; PyYAML calls itself for each


class _Refused(yaml.MarkedYAMLError):
    """What is YAML, and is not taken."""

    def __init__(self, problem: str, mark: yaml.Mark):
        super().__init__(None, None, problem, mark)
        self.said = f"line {mark.line + 1}: {shown(problem)}"


class _Loader(yaml.SafeLoader):
    levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"the alias *{event.anchor} is not taken; write out what it stands for", event.start_mark)
        if event.tag is not None:
            raise _Refused(
                f"the tag {event.tag} is not taken; the field says of what type its value is", event.start_mark
            )
        self.levels += 1
        if self.levels > MOST_LEVELS:
            raise _Refused(f"there are more than {MOST_LEVELS} levels of values in values", event.start_mark)
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused("a key must be a word", key.start_mark)
            name = str(key.value).replace("-", "_")  # as fields are looked up
            if name == "<<":
                raise _Refused("the merge key << is not taken; write out what it stands for", key.start_mark)
            if name in seen:
                raise _Refused(f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1
for _tag, _pattern in {
    "null": r"(?:~|null|Null|NULL|)\Z",
    "bool": r"(?:true|True|TRUE|false|False|FALSE)\Z",
    "int": WHOLE.pattern,
    "float": rf"(?=.*[.eE]){DECIMAL.pattern}|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), None)


def read_yaml(path: str) -> dict[str, Any]:
    """The fields in a file, with the names of fields. Raises UsageError."""
    content = read_bounded(f"config={path!r}", path, MOST_BYTES, "configuration")
    try:
        data = yaml.load(content.decode("utf-8-sig"), _Loader)
    except _Refused as error:
        raise UsageError(f"config={path!r} {error.said}") from error
    except (yaml.YAMLError, ValueError) as error:  # also of letters that are none
        raise UsageError(f"config={path!r} is not YAML: {shown(' '.join(str(error).split()))}") from error
    if data is not None and not isinstance(data, dict):
        raise UsageError(f"config={path!r} must be a mapping of fields, not {type(data).__name__}")
    return {str(key).replace("-", "_"): value for key, value in (data or {}).items()}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers  # what it reads as a text stays plain, all else is quoted

    def ignore_aliases(self, data: Any) -> bool:
        return True  # which are not read again


def as_yaml(data: dict[str, Any]) -> str:
    """Plain data as a file that `read_yaml` reads."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

"""What pages say of commands is what the commands say of themselves: `<!-- help: nas top -->` becomes their help."""

import contextlib
import io
import os
import re

from nas.commands.cli import main

MARK = re.compile(r"<!-- help: nas ?([a-z ]*)-->")


def on_page_markdown(markdown: str, **_: object) -> str:
    os.environ["COLUMNS"] = "100"
    return MARK.sub(lambda found: f"```text\n{_help(found[1].split())}```", markdown)


def _help(words: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main([*words, "--help"])
    assert status == 0, words
    return said.getvalue()

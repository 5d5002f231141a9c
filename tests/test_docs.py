"""README and docs: their commands exist, those of tutorials are run as they stand, pages build without a warning."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nas.commands.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"--[a-z][\w.-]*")
RUN = [page for page in PAGES if any(kind == "sh" for kind, _ in FENCE.findall(page.read_text()))]


def commands(page: Path) -> list[list[str]]:
    """The words after `nas` of each command in the code of a page."""
    lines = [
        line
        for kind, block in FENCE.findall(page.read_text())
        if kind in ("", "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "run_search.py"]:
            found.append(["search", *words[2:]])
        elif words[:1] == ["nas"]:
            found.append(words[1:])
    return found


@pytest.fixture(scope="module")
def helps():
    """The flags in the help of a command, by its first words."""
    known: dict[str, set[str]] = {}

    def ask(capsys, *words: str) -> set[str]:
        if (line := " ".join(words)) not in known:
            assert main(list(words)) == 0, line
            known[line] = set(FLAG.findall(capsys.readouterr().out))
        return known[line]

    return ask


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_in_a_command_is_one_of_that_command(page, helps, capsys):
    for words in commands(page):
        several = words[0] in ("table", "predictors", "data", "latency") and not words[1].startswith("-")
        names = [word for word in words[: 1 + several] if not word.startswith("-")]
        allowed = helps(capsys, *names, "--help") if names else {"--version"}
        if names[:1] in (["search"], ["retrain"]):
            allowed = allowed | helps(capsys, "search", "--help-all")
        used = {word.partition("=")[0] for word in words if FLAG.fullmatch(word.partition("=")[0])}
        part_fields = {flag for flag in used if "." in flag}  # which parts have which fields depends on their names
        assert used - part_fields <= allowed | {"--help"}, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_a_page_is_python_and_links_lead_somewhere(page):
    text = page.read_text()
    for kind, block in FENCE.findall(text):
        if kind == "python":
            compile(block, str(page), "exec")
    for place in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / place).exists(), place


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def photos(folder: Path, n: int = 2000) -> None:
    """Drawn shapes on noise, in photos of mixed sizes."""
    rng = np.random.default_rng(0)
    shapes = {"circle": ImageDraw.ImageDraw.ellipse, "square": ImageDraw.ImageDraw.rectangle}
    shapes["cross"] = lambda draw, box, fill: [
        draw.line((box[0], box[1], box[2], box[3]), fill, width=6),
        draw.line((box[0], box[3], box[2], box[1]), fill, width=6),
    ]
    for i in range(n):
        name = list(shapes)[i % 3]
        (folder / name).mkdir(parents=True, exist_ok=True)
        width, height = rng.integers(60, 240, 2)
        image = Image.fromarray(rng.integers(0, 120, (height, width, 3), dtype=np.uint8))
        side = int(min(width, height) * rng.uniform(0.4, 0.7))
        x, y = ((length - side) // 2 for length in (int(width), int(height)))
        fill = tuple(map(int, rng.integers(130, 256, 3)))
        shapes[name](ImageDraw.Draw(image), (x, y, x + side, y + side), fill)
        image.save(folder / name / f"{i:04d}.{'png' if i % 5 == 0 else 'jpg'}")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_tutorial_run_as_they_stand(page, tmp_path):
    photos(tmp_path / "photos")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    # As users have it: tests compile quickly, and then run slowly.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for kind, block in FENCE.findall(page.read_text()):
        if kind in ("sh", "python"):
            line = ["bash", "-euo", "pipefail", "-c", block] if kind == "sh" else [sys.executable, "-c", block]
            done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"

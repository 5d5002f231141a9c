"""README and docs: their commands exist, those of tutorials are run as they stand, pages build without a warning."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

import nas
from nas import registry
from nas.commands.cli import main
from nas.config import build_space
from nas.store.sql import Store
from spaces.base import every

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"--[a-z][\w.-]*")
RUN = [page for page in PAGES if any(kind == "sh" for kind, _ in FENCE.findall(page.read_text()))]


def commands(page: Path, kinds: tuple[str, ...] = ("", "sh")) -> list[list[str]]:
    """The words after `nas` of each command in the code of a page."""
    lines = [
        line
        for kind, block in FENCE.findall(page.read_text())
        if kind in kinds
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[: words.index("--")] if "--" in words else words  # what follows is another command's
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


@pytest.mark.parametrize(
    ("kind", "page"), {"space": "spaces", "strategy": "strategies", "predictor": "predictors"}.items()
)
def test_every_part_has_its_place_in_the_reference(kind, page):
    text = (ROOT / "docs" / "reference" / f"{page}.md").read_text()
    for name in registry.ours(kind):
        assert re.search(rf"^## .*\b{re.escape(name)}\b", text, re.MULTILINE), name
        if kind == "space":
            assert re.search(rf"^<!-- drawing: {re.escape(name)}(:\w+)? -->$", text, re.MULTILINE), name


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


# The commands of some other pages run as they are written too, with flags after them by which each takes seconds, and
# with something in place of the words that stand for the reader's own. Those of the others have tests of their own.

SHORT = ["--max-images", "80", "--final.batch-size", "8", "--training.batch-size", "8", "--training.steps", "4"]
SHORT += ["--final.steps", "3", "--workers", "0"]
CELLS = "--space nasbench201 --task table:nb201.npz"
NOT_HERE = {
    "cifar10": "its data cannot be had everywhere",
    "NATS-tss": "the same",
    "nas dashboard": "it answers until it is stopped",
}
IN_PLACE = {"fashion-mnist": "digits", "NAME": "renamed"}  # of data that cannot be had everywhere, and of what is meant
# What each page needs before its first command.
SEARCH = "nas search --space shufflenet --strategy random --task folder:photos --trials 4"
BEFORE = {
    "README": [f"{SEARCH} --name r", "nas export --run r --out best"],
    "query": [f"{SEARCH} --name r", f"nas compare {CELLS} --out compare"],
    "detection": [
        "nas search --space nas-fpn:tiny --strategy random --task voc:DIR --image-size 128 --name r",
        "nas export --run r --out best",
    ],
}


def shortened(words: list[str]) -> list[str]:
    if words[:2] == ["latency", "measure"]:
        return [*words, "--networks", "12", "--checked", "4", "--repeats", "2"]
    if words[0] == "compare":
        return [*words, "--seeds", "4", "--budget-seconds", "1000"]
    on_table = any(word.startswith("table:") for word in words)
    if words[0] == "search" and "--resume" not in words:
        # Each training from scratch is a program of its own.
        more = SHORT[-2:] if on_table else [*SHORT, "--epochs", "1", "--baselines", "1"]
        return [*words, "--trials", "24" if on_table else "8", *more]
    return [*words, "--epochs", "1", *SHORT] if words[0] == "retrain" else words


def of_the_readers_own(words: list[str]) -> list[str]:
    """The words, with a run in place of RUN, and what it found in place of ARCHITECTURE."""
    words = [IN_PLACE.get(word, word) for word in words]
    if not {"RUN", "ARCHITECTURE"} & {*words}:
        return words
    name = "one-bit" if "--packed" in words else "r"
    with Store("sqlite:///nas.db") as store:
        found = store.trials(store.run(name).id, "final")[0].architecture
    return [{"RUN": name, "ARCHITECTURE": found}.get(word, word) for word in words]


@pytest.fixture
def cores():
    """A measurement keeps the process to the cores that it asks for."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    if before is not None:
        os.sched_setaffinity(0, before)


@pytest.fixture
def stage(tmp_path, monkeypatch, cores):
    """A folder with what the pages speak of: photos, arrays, boxes, measurements, our examples and recipes."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 60)
    for name, colour in {"a.jpg": "red", "b.png": "blue", "photo.jpg": "green"}.items():
        Image.new("RGB", (90, 70), colour).save(tmp_path / name)
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 40, 40, 3), np.uint8))
    (tmp_path / "proposals.jsonl").write_text('{"architecture": [0, 3, 2, 1, 0, 1, 2, 3, 0]}\n')
    for folder in ("examples", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / "DIR" / folder).mkdir(parents=True)
    box = "<bndbox><xmin>{0}</xmin><ymin>{0}</ymin><xmax>{1}</xmax><ymax>{1}</ymax></bndbox>"
    for i in range(12):
        Image.new("RGB", (120, 100), (20 * i, 90, 200 - 9 * i)).save(tmp_path / "DIR" / "JPEGImages" / f"{i}.jpg")
        thing = f"<object><name>{'cat' if i % 2 else 'dog'}</name>{box.format(5 + i, 60 + 2 * i)}</object>"
        size = "<size><width>120</width><height>100</height><depth>3</depth></size>"
        (tmp_path / "DIR" / "Annotations" / f"{i}.xml").write_text(f"<annotation>{size}{thing}</annotation>")
    cells = build_space("nasbench201")
    head = ",".join(["architecture", *(f"cifar10_{split}_error_e12" for split in ("valid", "test"))])
    measured(cells, "cells.csv", f"{head},cifar10_seconds_e12,pixel3_latency_ms", (0.5, 0.52, 20.0, 9.0))
    assert main(["table", "build", "cells.csv", "--space", "nasbench201", "--out", "nb201.npz"]) == 0
    measured(
        registry.value("space", "examples/my_space.py:Chain"), "mine.csv", "architecture,my_valid_error_e5", (0.5,)
    )
    return tmp_path


def measured(space, path: str, head: str, at: tuple[float, ...]) -> None:
    """A file of made measurements of a whole space."""
    with open(path, "w", newline="") as file:
        write = csv.writer(file).writerow
        write(head.split(","))
        for row in np.unique(np.asarray(space.canonical(jnp.asarray(every(space)))), axis=0):
            write([space.describe(row), *(round(value * (1 - 0.01 * int(row.sum())), 5) for value in at)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["README", "search", "own-data", "query", "predictors", "compare", "own-parts", "detection"]
)
def test_the_commands_of_a_page_run(page, stage, monkeypatch, capsys):
    page = ROOT / "README.md" if page == "README" else ROOT / "docs" / f"{page}.md"
    kinds = ("",) if page in RUN else ("", "sh")  # the others run there
    wanted = [
        words for words in commands(page, kinds) if not any(each in " ".join(["nas", *words]) for each in NOT_HERE)
    ]
    if page.stem == "README":  # which begins with some of those of the other pages
        wanted = [words for words in wanted if words not in [each for other in PAGES[1:] for each in commands(other)]]
    if any("--packed" in words for words in wanted):
        wanted = [shlex.split("search --space binary-width:tiny --task digits --name one-bit"), *wanted]
    wanted = [*(shlex.split(line)[1:] for line in BEFORE.get(page.stem, [])), *wanted]
    for words in wanted:
        line = shortened(of_the_readers_own(words))
        assert main(line) == 0, f"nas {shlex.join(line)}\n{capsys.readouterr().err}"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README", "query", "predictors", "own-parts"])
def test_the_python_of_a_page_runs(page, stage, monkeypatch):
    def search(**options):
        short = {"steps": 3, "batch_size": 8}
        return nas_search(**options, max_images=80, training=short, final=short, workers=0)

    nas_search = nas.search
    monkeypatch.setattr(nas, "search", search)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    lines = {
        "predictors": [f"nas search {CELLS} --strategy nao --name s1 --save-predictor s1 --trials 24",
                       "nas predictors export s1 --out dir"],
    }.get(page, [f"{SEARCH} --name r", "nas export --run r --out best"])  # fmt: skip
    for line in lines:
        assert main(shortened(shlex.split(line)[1:])) == 0
    path = ROOT / "README.md" if page == "README" else ROOT / "docs" / f"{page}.md"
    for kind, block in FENCE.findall(path.read_text()):
        if kind == "python":
            exec(compile(block.replace("trials=100", "trials=4"), str(path), "exec"), {})

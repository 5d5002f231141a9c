"""What follows from the data where the user says nothing else: the size of images, the preset, the recipe."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import MINI, refusal
from PIL import Image

import spaces
from nas.commands import again
from nas.config import build, from_values
from nas.errors import Interrupted
from nas.job import chosen
from nas.job.run import search
from nas.job.subject import load_subject
from nas.report.progress import Silent
from nas.store.sql import Store
from nas.tasks import load
from nas.tasks.base import Task, split
from spaces import presets
from spaces.base import sample


def folder(place, sides, classes: int = 2):
    """Images of noise, one a side and class, each half as wide again as it is high."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (place / f"class{label}").mkdir(parents=True)
        for i, side in enumerate(sides):
            pixels = rng.integers(0, 256, (side, side * 3 // 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"class{label}" / f"{i}.png")
    return f"folder:{place}"


def toy(size: int) -> Task:
    labels = np.arange(20) % 2
    return split("toy", np.zeros((20, size, size, 3), np.uint8), labels, 2)


@pytest.mark.parametrize(("sides", "size"), [([8, 70, 90, 64], 64), ([8, 20, 63, 200], 32), ([63, 64], 64), ([9], 32)])
def test_images_of_a_folder_become_as_large_as_most_of_them_are(tmp_path, sides, size):
    task = load(folder(tmp_path, sides * 4))
    assert task.image_size == size
    asked = load(task.name, image_size=size)
    assert task.fingerprint() == asked.fingerprint(), "each is resized once, from what lies in its file"


def test_the_preset_suits_the_size_of_the_images():
    task = toy(40)
    assert chosen.with_preset({}, task) == {"space": "shufflenet:small"}
    given = (
        {"space": "shufflenet:tiny"},
        {"space": {"name": "shufflenet", "dropout": 0.3}},
        {"space": "darts"},
        {"space": "my_space.py:Mine"},
        {"space": "shufflenet+nas-fpn"},
        {"architecture": [0] * 9},
    )
    for data in given:
        assert chosen.with_preset(data, task) == data
    assert chosen.with_preset({}, toy(32)) == {}


def test_what_is_chosen_for_larger_images_costs_less():
    for name in spaces.SPACES:
        first = next(iter(presets(name).values()))
        for size in (33, 35, 48, 64, 224):
            preset = spaces.suited(name, size)
            if preset is None:
                continue
            costs = []
            for space in (first, presets(name)[preset]):
                space = dataclasses.replace(space, image_size=size, num_classes=10)
                costs.append(float(np.median(space.cost(sample(space, jax.random.key(0), 64))["macs"])))
            assert costs[1] < costs[0], (name, size)


def test_photographs_are_mirrored_and_cropped_but_for_what_is_given(tmp_path):
    given = {"task": folder(tmp_path, [40] * 10), "final": {"flip": False}}
    settings = build(given)
    settings = chosen.with_recipes(settings, given, load_subject(settings, "shufflenet"))
    assert (settings.training.crop, settings.training.flip) == (4, True)
    assert (settings.final.crop, settings.final.flip) == (4, False)


def test_of_other_images_nobody_knows_whether_they_may_be_mirrored():
    assert chosen.recipes_of(load("digits")) == {}
    assert chosen.recipes_of(toy(64)) == {}


@dataclasses.dataclass(frozen=True)
class Depth:
    """Scores by the encoding alone: no network is compiled."""

    metrics = ("depth",)

    def prepare(self, space, task):
        return lambda encoding, budget, seed: {"depth": float(sum(encoding))}


class Said(Silent):
    def __init__(self):
        self.lines, self.shown = [], []

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        self.shown.append((stage, done, total))

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_the_first_line_says_what_was_chosen_and_the_run_keeps_it(tmp_path):
    task, store, said = folder(tmp_path / "photos", [70] * 8), f"sqlite:///{tmp_path}/nas.db", Said()
    data = {"task": task, "store": store, "evaluator": Depth(), "strategy": "random", "trials": 2, "workers": 0}
    search(from_values({**data, "finalists": 0}), reporter=said)
    line = said.lines[0]
    assert line.startswith(f"Chosen for {task}, where you say nothing else: 64 x 64 pixels, ")
    assert "space shufflenet:small" in line
    assert "training with crop 8 and flip true" in line
    with Store(store) as runs:
        given = runs.run("latest").given
    assert given["space"]["name"] == "shufflenet:small"
    assert given["final"]["crop"] == 8


def test_nothing_is_said_where_nothing_was_chosen():
    assert chosen.told({}, {}, load("digits")) is None


def test_the_command_that_repeats_a_run_says_every_field_that_the_data_could_choose(tmp_path):
    data = {"task": folder(tmp_path / "photos", [20] * 8), "store": f"sqlite:///{tmp_path}/nas.db", "workers": 0}
    data |= {"evaluator": Depth(), "strategy": "random", "trials": 2, "finalists": 0}
    outcome = search(from_values({**data, "training": {"crop": 0}, "final": {"flip": False}, "name": "it"}))
    with Store(outcome.store) as store:
        words = again.command(store.run("it"), outcome.store).split()
    assert words[words.index("--training.crop") + 1] == "0"
    assert "--no-final.flip" in words


def test_what_was_given_may_be_given_again_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.tasks.folders.EVERY", 5)
    store = f"sqlite:///{tmp_path}/nas.db"
    data = {"task": folder(tmp_path / "photos", [70] * 8), "space": "shufflenet", "final": {"steps": 7}}
    data |= {"evaluator": Depth(), "strategy": "random", "trials": 2, "finalists": 0, "workers": 0}
    began, went_on = Said(), Said()
    search(from_values({**data, "store": store, "name": "it"}), reporter=began)
    search(from_values({**data, "store": store}), resume="it", reporter=went_on)
    for said in (began, went_on):  # how far the reading is
        read = [(done, total) for stage, done, total in said.shown if stage == "Reading the data"]
        assert len(read) > 1
        assert read[-1][0] == read[-1][1] > 5
    said = refusal(search, from_values({"store": store, "trials": 3}), resume="it")
    assert said.startswith("trials cannot be changed by --resume")
    said = refusal(search, from_values({"store": store, "final": {"steps": 8}}), resume="it")
    assert said.startswith("final cannot be changed by --resume")


def test_a_damaged_checkpoint_of_a_final_training_is_refused_and_costs_nothing_when_it_is_taken_away(tmp_path):
    data = {"space": MINI, "evaluator": Depth(), "strategy": "random", "trials": 3, "baselines": 0, "workers": 0}
    data |= {"final": {"steps": 2, "batch_size": 8}, "max_images": 60, "store": f"sqlite:///{tmp_path}/nas.db"}

    class Stops(Silent):
        def show(self, stage: str, *rest) -> None:
            if stage == "Training from scratch":
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        search(from_values({**data, "name": "it"}), reporter=Stops())
    with Store(data["store"]) as store:
        damaged = store.folder(store.run("it")) / "some.progress.safetensors"
    damaged.write_bytes(b"none")
    said = refusal(search, {"store": data["store"]}, resume="it")
    assert str(damaged) in said
    damaged.unlink()
    unfinished = damaged.with_name("supernet.safetensors.tmp")  # as a process leaves it that is killed
    unfinished.write_bytes(b"half")
    (row,) = search({"store": data["store"]}, resume="it").finals
    assert "test_error" in row
    assert not unfinished.exists()

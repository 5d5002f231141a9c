"""Data larger than memory: decoded once, kept in files, mapped and streamed, with the bits of those in memory."""

import dataclasses
import json
import os
import pickle  # noqa: TID251 - what is sent to workers is our own
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import MINI, RECIPE, refusal
from PIL import Image

import nas
from nas.errors import RunError
from nas.evaluators.supernet import SupernetEvaluator
from nas.saved import checkpoint
from nas.store.sql import Store
from nas.tasks import kept, load, room
from nas.tasks.base import Task, split
from nas.tasks.data import digest_of, in_channels, travelling
from nas.training.net import flatten
from nas.training.paths import uniform_paths
from nas.training.recipe import Recipe
from nas.training.sgd import fit

RNG = np.random.default_rng(0)
PARTS = ("train", "valid", "test")
LONG_AGO = (time.time() - 1000, time.time() - 1000)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where everything that has images at all is kept in files."""
    place = tmp_path / "cache"
    monkeypatch.setenv(room.FOLDER, str(place))
    monkeypatch.setenv(room.MEMORY, "0")
    monkeypatch.setattr(room, "CHUNK", 1000)
    monkeypatch.setattr("nas.tasks.data.CHUNK", 1000)
    return place


def in_memory(monkeypatch, call, *arguments, **options) -> Task:
    with monkeypatch.context() as usual:
        usual.delenv(room.MEMORY)
        return call(*arguments, **options)


def folder(place: Path, count: int = 40, size: tuple[int, int] = (9, 7)) -> str:
    """A task of two classes."""
    for i in range(count):
        path = place / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return f"folder:{place}"


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def tasks(place: Path) -> dict[str, tuple[str, dict]]:
    labels = np.arange(60) % 3
    named = {"images": RNG.random((60, 6, 6)), "labels": labels, "classes": np.array(["x", "y", "z"])}
    parts = {f"{part}_images": np.asfortranarray(pixels(60, 8, 8, 1)) for part in PARTS}
    parts |= {f"{part}_labels": labels for part in PARTS}
    return {
        "folder": (folder(place / "a"), {}),
        "sized": (folder(place / "b"), {"image_size": 12, "resize": "pad"}),
        "few": (folder(place / "c"), {"max_images": 12}),
        "bytes": (npz(place / "a.npz", images=pixels(60, 8, 6, 3), labels=labels), {}),
        "floats": (npz(place / "b.npz", **named), {"image_size": 7}),
        "parts": (npz(place / "c.npz", **parts), {}),
        "numbers": (npz(place / "d.npz", images=pixels(60, 8, 8, 1), labels=RNG.random(60)), {}),
    }


@pytest.mark.parametrize("name", ["folder", "sized", "few", "bytes", "floats", "parts", "numbers"])
def test_a_task_in_files_is_the_one_in_memory(name, tmp_path, cache, monkeypatch):
    given, options = tasks(tmp_path)[name]
    whole = in_memory(monkeypatch, load, given, **options)
    assert whole.train.file is None
    for _ in range(2):  # decoded, and then found
        task = load(given, **options)
        assert task.fingerprint() == whole.fingerprint()
        assert (task.mean, task.std, task.classes, task.resize, task.kind) == (
            *(whole.mean, whole.std, whole.classes, whole.resize, whole.kind),
        )
        for part in PARTS:
            ours, theirs = getattr(task, part), getattr(whole, part)
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            assert ours.file is not None
            assert not ours.images.flags.writeable
        note = "" if whole.note is None else f"{whole.note}; "
        assert task.note is not None
        assert task.note.startswith(f"{note}{given}: ")
        assert f"are kept in {cache}" in task.note
    assert len(folders(cache)) == 1


def test_what_was_decoded_is_not_decoded_again(tmp_path, cache, monkeypatch):
    name = folder(tmp_path / "a")
    first = load(name, skip_invalid=True)  # of which nothing is left out: it is the same task
    monkeypatch.setattr("nas.tasks.folders.decode", None)
    monkeypatch.chdir(tmp_path)
    again = load("folder:a")
    assert again.fingerprint() == first.fingerprint()
    assert again.note is not None
    assert again.note == str(first.note).replace(name, "folder:a")


def test_other_options_are_other_tasks(tmp_path, cache):
    name = folder(tmp_path / "a")
    others: list[dict[str, Any]] = [{"image_size": 8}, {"resize": "pad"}, {"max_images": 20}, {"split_seed": 1}]
    for options in ({}, *others):
        load(name, **options)
    assert len(folders(cache)) == 5


def test_files_that_changed_are_decoded_anew_and_what_was_kept_of_them_goes(tmp_path, cache):
    name = folder(tmp_path / "a")
    first, kept_first = load(name), folders(cache)
    path = tmp_path / "a/class0/000.png"
    Image.fromarray(pixels(9, 7, 3)).save(path)
    second, kept_second = load(name), folders(cache)
    assert second.fingerprint() != first.fingerprint()
    assert len(kept_second) == 1
    assert kept_first != kept_second


def test_a_file_of_the_same_size_and_time_is_seen_to_be_another_one(tmp_path, cache):
    path, labels = tmp_path / "a.npz", np.arange(60) % 3
    first = load(npz(path, images=pixels(60, 8, 6, 3), labels=labels))
    about = path.stat()
    name = npz(path, images=pixels(60, 8, 6, 3), labels=labels)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_size == about.st_size
    assert load(name).fingerprint() != first.fingerprint()


def test_files_that_change_while_they_are_read_are_refused(tmp_path, cache, monkeypatch):
    name = folder(tmp_path / "a")
    read = kept.source_of
    changes = iter(range(10))

    def later(asked):
        Image.fromarray(pixels(9, 7, 3)).save(tmp_path / f"a/class0/new{next(changes)}.png")
        return read(asked)

    monkeypatch.setattr(kept, "source_of", later)
    assert "has files that changed while they were read; try again" in refusal(load, name)
    assert folders(cache) == []


def test_what_else_lies_among_the_images_is_none_of_their_business(tmp_path, cache):
    name = folder(tmp_path / "a")
    load(name)
    before = folders(cache)
    (tmp_path / "a/nas.db").touch()
    (tmp_path / "a/class0/notes.txt").touch()
    load(name)
    assert folders(cache) == before


@pytest.mark.slow
def test_what_another_process_uses_is_not_removed(tmp_path, cache):
    """Its workers open the files by name, also those that it starts later."""
    name = folder(tmp_path / "a")
    script = "import sys; from nas.tasks import load; load(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    line = [sys.executable, "-c", script, name]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (first,) = folders(cache)
        Image.fromarray(pixels(9, 7, 3)).save(tmp_path / "a/class0/000.png")
        load(name)
        assert first in folders(cache)
        assert len(folders(cache)) == 2
        other.communicate()
    Image.fromarray(pixels(9, 7, 3)).save(tmp_path / "a/class0/000.png")
    load(name)
    assert len(folders(cache)) == 1


def damaged_pixel(place: Path) -> None:
    path = place / "valid_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "pixel": damaged_pixel,
    "cut": lambda place: os.truncate(place / "train_images.npy", 200),
    "missing": lambda place: (place / "test_labels.npy").unlink(),
    "pickle": lambda place: (place / "test_labels.npy").write_bytes(pickle.dumps([1])),
    "note": lambda place: (place / "task.json").write_text('{"format": 1}'),
    "no note": lambda place: (place / "task.json").write_text("]"),
    "other format": lambda place: (place / "task.json").write_text(
        json.dumps(json.loads((place / "task.json").read_text()) | {"format": 0})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_was_damaged_is_decoded_anew(damage, tmp_path, cache):
    name = npz(tmp_path / "a.npz", images=pixels(30, 8, 8, 3), labels=np.arange(30) % 2)
    whole = load(name).fingerprint()
    (place,) = cache.iterdir()
    damage(place)
    assert load(name).fingerprint() == whole
    task = kept.known(place.name, name)
    assert task is not None
    assert task.fingerprint() == whole


def test_what_ended_processes_began_goes_and_what_is_being_filled_stays(tmp_path, cache):
    old = cache / f"{kept.BEGUN}old"
    old.mkdir(parents=True)
    (old / kept.LOCK).touch()
    (cache / f"{kept.BEGUN}new").mkdir()
    with kept.written("a-b") as writing:
        for folder in (old, writing.begun):
            os.utime(folder, LONG_AGO)
        with kept.written("c-d"):
            assert not old.exists()
            assert writing.begun.is_dir()
    assert folders(cache) == ["a-b", "c-d", f"{kept.BEGUN}new"]


@pytest.mark.slow
def test_what_was_begun_and_never_ended_is_taken_for_nothing_and_goes(tmp_path, cache):
    name = folder(tmp_path / "a", 200)
    script = (
        "import sys, time; from nas.tasks import kept, load; whole = kept.Writing.describe\n"
        "def wait(*_): print('begun', flush=True); time.sleep(60)\n"
        "kept.Writing.describe = wait; load(sys.argv[1])"
    )
    with subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        (begun,) = cache.iterdir()
        assert begun.name.startswith(kept.BEGUN)
        os.utime(begun, LONG_AGO)
        load(name)  # while the other one lives
        assert begun.is_dir()
        writer.send_signal(signal.SIGKILL)
    load(name, image_size=8)
    assert not begun.exists()
    assert len(folders(cache)) == 2


@pytest.mark.slow
def test_two_processes_at_once_make_one_folder(tmp_path, cache):
    name = folder(tmp_path / "a", 100)
    script = "import sys; from nas.tasks import load; print(load(sys.argv[1]).fingerprint())"
    both = [subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert said[0] == said[1] == f"{load(name).fingerprint()}\n"
    assert len(folders(cache)) == 1


def test_a_folder_that_another_process_filled_meanwhile_is_left(tmp_path, cache):
    name = npz(tmp_path / "a.npz", images=pixels(30, 8, 8, 3), labels=np.arange(30) % 2)
    load(name)
    (place,) = cache.iterdir()
    before = (place / "task.json").stat().st_ino
    with kept.written(place.name) as writing:
        (writing.begun / "task.json").write_text("{}")
    assert (place / "task.json").stat().st_ino == before
    assert folders(cache) == [place.name]


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path, cache, monkeypatch):
    name = folder(tmp_path / "a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "reserve", full)
    with pytest.raises(RunError, match=f"{cache}, where large tasks .*{room.FOLDER}.* No space left on device"):
        load(name)
    assert folders(cache) == []
    monkeypatch.setattr(room, "reserve", full)
    with pytest.raises(RunError, match="No space left on device"):
        room.empty((10, 10), np.uint8)


def test_images_are_held_in_memory_where_that_is_asked_for(tmp_path, cache, monkeypatch):
    name = folder(tmp_path / "a")
    monkeypatch.setenv(room.FOLDER, "off")
    assert load(name).train.file is None
    monkeypatch.setenv(room.FOLDER, str(cache))
    assert load(name).train.file is not None
    monkeypatch.setenv(room.MEMORY, "1")  # MiB: they fit by now
    assert load(name).train.file is None


@pytest.mark.parametrize("value", ["much", "-1", "1.5"])
def test_a_bound_that_is_none_is_refused(value, tmp_path, cache, monkeypatch):
    monkeypatch.setenv(room.MEMORY, value)
    said = refusal(load, folder(tmp_path / "a"))
    assert said == f"{room.MEMORY}={value!r} must be a whole number of MiB, 0 or more"


def test_arrays_of_ones_own_are_kept_by_their_content(cache):
    images, labels = pixels(40, 8, 8, 3), np.arange(40) % 2
    first = split("own", images, labels, 2)
    assert first.train.file is not None
    assert split("own", images, labels, 2).fingerprint() == first.fingerprint()
    assert len(folders(cache)) == 1
    images[0] ^= 1
    assert split("own", images, labels, 2).fingerprint() != first.fingerprint()
    assert len(folders(cache)) == 2


def test_a_part_that_is_sent_says_where_its_images_lie_or_takes_them_along(cache):
    task = split("own", pixels(40, 8, 8, 1), np.arange(40) % 2, 2)
    for part in (task.train, in_channels(task.train, 3)):
        sent = pickle.dumps(part)
        assert len(sent) < 1000
        there = pickle.loads(sent)
        np.testing.assert_array_equal(there.images, part.images)
        assert there.images.shape[3] == part.images.shape[3]
        with travelling():
            whole = pickle.dumps(part)
        assert len(whole) > part.images.nbytes
        there = pickle.loads(whole)
        assert there.file is None
        np.testing.assert_array_equal(there.images, part.images)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory is looked at as Linux shows it")
def test_no_more_of_the_images_is_held_than_what_is_looked_at(cache):
    part = split("own", pixels(4000, 32, 32, 1), np.arange(4000) % 2, 2).train
    assert part.file is not None

    def held() -> int:
        rows = Path("/proc/self/smaps").read_text().splitlines()
        places = [i for i, row in enumerate(rows) if row.endswith(part.file.path)]
        return sum(int(next(row for row in rows[i:] if row.startswith("Rss:")).split()[1]) for i in places)

    digest = digest_of("", [part.images])
    assert held() == 0
    images, places = part.batch(np.arange(0, 2400, 7))[0][0], part.images[::7]
    np.testing.assert_array_equal(images, places)
    assert held() > 500  # KiB: by looking at them all
    part.batch(np.arange(3))
    assert held() == 0
    assert digest_of("", [np.array(part.images)]) == digest


def test_grey_images_in_three_channels_are_the_same_in_files(cache, monkeypatch):
    given = "own", pixels(40, 8, 8, 1), np.arange(40) % 2, 2
    mapped, held = split(*given).train, in_memory(monkeypatch, split, *given).train
    np.testing.assert_array_equal(in_channels(mapped, 3).images, in_channels(held, 3).images)


# What is computed


def both(monkeypatch) -> tuple[Task, Task]:
    labels = np.arange(300) % 3
    images = RNG.integers(0, 100, (300, 8, 8, 1)).astype(np.uint8)
    bright = np.arange(8)[None, :, None, None] // 3 == labels[:, None, None, None]
    given = "easy", images + 120 * bright.astype(np.uint8), labels, 3
    return in_memory(monkeypatch, split, *given), split(*given)


def equal(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_what_is_streamed_is_computed_with_the_bits_of_what_is_in_memory(cache, supernet, monkeypatch):
    held, mapped = both(monkeypatch)
    streamed_is_held(held, mapped, dataclasses.replace(RECIPE, steps=25), supernet)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_what_is_streamed_is_computed_with_the_bits_of_what_is_in_memory_as_users_have_it(cache, supernet, monkeypatch):
    held, mapped = both(monkeypatch)
    recipe = dataclasses.replace(RECIPE, steps=30, crop=1, flip=True, mixup=0.2)
    streamed_is_held(held, mapped, recipe, supernet)


def streamed_is_held(held: Task, mapped: Task, recipe: Recipe, supernet) -> None:
    graph, start, statistics = supernet
    assert held.train.file is None
    assert mapped.train.file is not None
    paths = uniform_paths(MINI, jax.random.key(1), recipe.steps)
    weights = [flatten(fit(graph, start, statistics, task, recipe, seed=3, paths=paths)) for task in (held, mapped)]
    equal(*weights)
    rows = [tuple(int(choice) for choice in path) for path in paths[:3]]
    for row in rows:
        scores = [SupernetEvaluator(MINI, weights[0], task, batch_size=32)(row, 0, 0) for task in (held, mapped)]
        assert scores[0].metrics == scores[1].metrics


SPACE = {
    "name": "shufflenet",
    "blocks": (1, 1),
    "widths": (8, 16),
    "strides": (1, 2),
    "stem_width": 8,
    "last_width": 16,
}
BLACK_BOX = {"strategy": "random", "trials": 4, "training": {"steps": 20, "batch_size": 16}, "workers": 2}
JOBS = {
    "shared weights": {"space": SPACE, **BLACK_BOX, "final": {"steps": 10, "batch_size": 16}, "baselines": 1},
    "gradients": {
        "space": SPACE,
        "strategy": "gumbel-darts",
        "epochs": 2,
        "training": {"batch_size": 16},
        "finalists": 0,
        "workers": 0,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("options", JOBS.values(), ids=JOBS)
def test_a_job_on_files_is_the_one_in_memory_and_goes_on_from_another_folder(options, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.arange(150) % 3
    name = npz(
        Path("a.npz"),
        images=pixels(150, 8, 8, 1) // 2 + 60 * labels[:, None, None, None].astype(np.uint8),
        labels=labels,
    )
    store = f"sqlite:///{tmp_path}/nas.db"

    def run(called: str, **more) -> tuple[list, dict]:
        outcome = nas.search(**options, **more, name=called, store=store)
        with Store(store) as runs:
            found = runs.run(outcome.name)
            trials = [(trial.encoding, trial.state, trial.measurements) for trial in runs.trials(found.id)]
            files = runs.artifacts(found.id, kind="weights")  # in the order in which workers were done
            arrays = {file.architecture: checkpoint.read(Path(file.path))[0] for file in files}
            return trials, {
                which: {name: each.tobytes() for name, each in its.items()} for which, its in arrays.items()
            }

    with monkeypatch.context() as usual:
        usual.delenv(room.MEMORY)
        held = run("held", task=name)
    assert not cache.exists()
    assert run("mapped", task=name) == held
    assert len(folders(cache)) == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    nas.search(resume="mapped", store=store)
    (tmp_path / "a.npz").rename(elsewhere / "b.npz")
    assert "cannot be read" in refusal(nas.search, resume="mapped", store=store)
    nas.search(resume="mapped", store=store, task="npz:b.npz")
    npz(elsewhere / "b.npz", images=pixels(150, 8, 8, 1), labels=labels)
    said = refusal(nas.search, resume="mapped", store=store, task="npz:b.npz")
    assert "has other images or labels than when mapped began" in said

"""`nas data check`: says what a search reads, and all that a user should mend, not the first of it."""

import json

import numpy as np
import pytest
from conftest import refusal
from PIL import Image

from nas.commands.cli import main
from nas.tasks import load
from nas.tasks.pixels import decode


@pytest.fixture
def photos(tmp_path):
    """Three classes at several sizes and in several formats."""
    rng = np.random.default_rng(0)
    counts = {"ant": 24, "bee": 12, "cat": 4}
    for name, n in counts.items():
        (tmp_path / name).mkdir()
        for i in range(n):
            pixels = rng.integers(0, 256, (8 + i % 3, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(
                tmp_path / name / f"{i}.{('png', 'webp', 'tiff', 'bmp')[i % 4]}", lossless=True
            )
    return tmp_path


def checked(capsys, *words: str) -> dict:
    assert main(["data", "check", *words, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_says_what_a_search_reads(photos, capsys):
    name = f"folder:{photos}"
    said, task = checked(capsys, name), load(name)
    assert said["images"] == {"train": len(task.train), "valid": len(task.valid), "test": len(task.test)}
    assert said["fingerprint"] == task.fingerprint()
    assert said["drawn"] == ["valid", "test"]
    assert {part: sum(said["labels"][part].values()) for part in said["images"]} == said["images"]
    assert sum(said["sizes"].values()) == sum(said["modes"].values()) == 40
    assert (said["left_out"], said["invalid"], said["equal"]) == (0, [], [])
    assert main(["data", "check", name]) == 0
    text = capsys.readouterr().out
    assert "40: 24 train, 8 valid, 8 test; valid and test drawn at random" in text
    assert "The most frequent class has" in text
    assert "cat (" in text


def test_all_that_cannot_be_read_is_listed_and_skip_invalid_leaves_it_out(photos, capsys):
    (photos / "ant" / "bad.jpg").write_bytes(b"no image")
    (photos / "bee" / "cut.png").write_bytes((photos / "bee" / "0.png").read_bytes()[:60])
    (photos / "bee" / "deeper").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "bee" / "deeper" / "x.png")
    name = f"folder:{photos}"
    assert "--skip-invalid leaves out such images" in refusal(load, name)
    said = checked(capsys, name)
    assert said["left_out"] == 3
    assert [any(each in line for line in said["invalid"]) for each in ("bad.jpg", "cut.png", "deeper/x.png")] == [
        True
    ] * 3
    task = load(name, skip_invalid=True)
    assert task.fingerprint() == said["fingerprint"]
    assert "3 images were invalid and left out" in str(task.note)
    assert main(["data", "check", name]) == 0
    assert "cannot be used: a search refuses the first" in capsys.readouterr().out
    assert main(["data", "check", name, "--skip-invalid"]) == 0
    assert "cannot be used, and are left out (3):" in capsys.readouterr().out
    skipped = checked(capsys, name, "--skip-invalid")
    assert "3 images were invalid and left out" in skipped["note"]
    assert "left out" not in said["note"]  # a search would refuse the first
    assert {**skipped, "note": ""} == {**said, "note": ""}


def test_images_that_lie_in_several_parts_are_found(tmp_path, capsys):
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(6):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                    tmp_path / part / name / f"{i}.png"
                )
    (tmp_path / "test/bee/3.png").write_bytes((tmp_path / "train/ant/2.png").read_bytes())
    (tmp_path / "train/bee/1.png").write_bytes((tmp_path / "train/bee/0.png").read_bytes())
    said = checked(capsys, f"folder:{tmp_path}")
    assert said["equal_across_parts"] == [["train/ant/2.png", "test/bee/3.png"]]
    assert sorted(map(len, said["equal"])) == [2, 2]
    assert said["drawn"] == ["valid"]


def test_an_image_that_is_in_two_classes_is_told_from_one_that_is_there_twice(photos, capsys):
    ant, bee = ((photos / name) for name in ("ant", "bee"))
    (bee / "same.png").write_bytes((ant / "0.png").read_bytes())
    (ant / "twice.png").write_bytes((ant / "4.png").read_bytes())
    said = checked(capsys, f"folder:{photos}")
    assert said["equal_across_classes"] == [["ant/0.png", "bee/same.png"]]
    assert sorted(said["equal"]) == [["ant/0.png", "bee/same.png"], ["ant/4.png", "ant/twice.png"]]
    assert main(["data", "check", f"folder:{photos}"]) == 0
    out = capsys.readouterr().out
    assert "in several classes, of which one at most is right (1):\n  ant/0.png, bee/same.png" in out
    assert "parts that are drawn at random may share (1):\n  ant/4.png, ant/twice.png" in out


def test_arrays_numbers_and_our_own_data_are_surveyed_too(tmp_path, capsys):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "numbers.npz", images=images, labels=rng.normal(size=40))
    said = checked(capsys, f"npz:{tmp_path / 'numbers.npz'}")
    assert (said["kind"], said["classes"], said["imbalance"]) == ("regression", [], None)
    assert said["labels"]["train"]["least"] < said["labels"]["train"]["mean"] < said["labels"]["train"]["most"]
    assert checked(capsys, "digits", "--max-images", "100")["images"]["train"] < 100


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check"], "required: TASK"),
        (["chekc", "digits"], "did you mean 'check'?"),
        (["check", "digts"], "did you mean 'digits'?"),
        (["check", "table:x.npz"], "nas table show"),
        (["check", "digits", "--resize", "no"], "resize='no' must be crop"),
        (["check", "folder:/nowhere"], "does not exist"),
    ],
)
def test_it_refuses_in_one_line(words, said, capsys):
    assert main(["data", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("dtype", ["uint16", ">u2"])
def test_of_16_bits_the_upper_8_are_kept(dtype, tmp_path):
    values = np.array([[0, 255, 256], [40_000, 65_280, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    if dtype == ">u2":
        Image.frombytes("I;16B", (3, 2), values.astype(dtype).tobytes()).save(tmp_path / "deep.png", "TIFF")
    image = decode("x", (tmp_path / "deep.png").read_bytes())
    assert np.array_equal(np.asarray(image)[..., 0], values >> 8)


def test_names_of_files_move_no_cursor(tmp_path, capsys):
    for name in ("ant", "b\x1b[2Jee"):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (8, 8), (i * 40, 0, 0)).save(tmp_path / name / f"{i}.png")
    assert main(["data", "check", f"folder:{tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "b\\x1b[2Jee" in said

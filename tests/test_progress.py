"""What a person sees of a job, on a terminal and in a log."""

import io
import sys
import time

import pytest

from nas.report import progress
from nas.report.progress import Bar


def lines(capsys) -> list[str]:
    said = capsys.readouterr()
    assert said.out == ""
    return [line.strip().partition("  ")[2] for line in said.err.splitlines()]


def test_without_a_terminal_a_stage_is_a_line_at_its_beginning_and_its_end(capsys):
    with Bar() as bar:
        for step in range(1, 101):
            bar.show("Training", step, 100, f"loss {1 / step:.2f}")
        bar.show("Searching", 0, 5, "")
        bar.say("12 images are resized")
    said = capsys.readouterr().err.splitlines()
    assert [line.strip().partition("  ")[2] or line for line in said] == [
        "Training: 1 of 100  loss 1.00",
        "Training: 100 of 100  loss 0.01",
        "Searching: 0 of 5",
        "12 images are resized",
    ]
    assert all(line.strip() for line in said)


def test_now_and_then_there_is_a_line_also_while_nothing_is_heard(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.1)
    with Bar() as bar:
        bar.show("Training", 0, 2, "")
        deadline, found = time.monotonic() + 20, []
        while len(found) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
            found += lines(capsys)
    assert found[:3] == ["Training: 0 of 2"] * 3
    time.sleep(0.5)
    lines(capsys)
    time.sleep(0.5)
    assert lines(capsys) == []  # it ends with the job


@pytest.mark.parametrize("closed", [None, "broken"])
def test_a_job_does_not_end_because_nobody_reads(closed, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    with Bar() as bar:
        monkeypatch.setattr(sys, "stderr", None if closed is None else Broken())
        bar.show("Training", 0, 2, "")
        bar.say("12 images are resized")


def test_a_refusal_comes_without_an_empty_line(capsys):
    def refused():
        with Bar():
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        refused()
    assert capsys.readouterr().err == ""


def test_a_line_says_how_long_a_stage_will_still_take(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Bar() as bar:
        bar.show("Training", 0, 101, "compiling")
        now += 500  # to compile, which says nothing of the other steps
        bar.show("Training", 1, 101, "")
        now += 40
        bar.show("Training", 21, 101, "loss 2.00")
        now += 40
        bar.show("Training", 41, 101, "loss 1.00")
        bar.show("Training", 101, 101, "")
    assert [line for line in lines(capsys) if "left" in line] == [
        "Training: 21 of 101  loss 2.00  about 3 min left",
        "Training: 41 of 101  loss 1.00  about 2 min left",
    ]


def test_a_stage_that_begins_again_has_a_pace_of_its_own(capsys, monkeypatch):
    """As of a second folder."""
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Bar() as bar:
        for done, seconds in ((500, 0), (1000, 400), (500, 400), (1000, 40)):
            now += seconds
            bar.show("Reading", done, 1500, "")
    assert [line for line in lines(capsys) if "left" in line][-1] == "Reading: 1000 of 1500  about 40 s left"


def test_the_same_line_is_not_written_again_at_the_end_of_a_stage(capsys):
    """After its last step a training is evaluated, while its progress is looked at."""
    with Bar() as bar:
        for count in (2, 2, 2, 3, 3, 4):
            bar.show("Training", 160, 160, f"{count} of 4 networks")
    assert lines(capsys) == [f"Training: 160 of 160  {count} of 4 networks" for count in (2, 3, 4)]

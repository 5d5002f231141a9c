"""Ctrl-C and SIGTERM, once and twice, and an environment that is not the developer's own."""

import io
import os
import signal
import sys

import pytest

from nas import compilation, job, launch, output
from nas.interrupts import ended_by_sigterm, undisturbed
from nas.store import Store

WORDS = """--space.blocks (1,1) --space.widths (8,16) --space.strides (1,2) --space.stem-width 8 --space.last-width 16
--training.steps 5 --final.steps 5 --trials 3 --workers 0 --strategy random --max-images 100 --name it"""
TINY = WORDS.split()


def test_sigterm_is_heard_as_ctrl_c_and_only_then():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), ended_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_interrupted_twice_says_how_it_goes_on(first, tmp_path, monkeypatch, capsys):
    """The second signal comes while the first is recorded."""
    monkeypatch.chdir(tmp_path)
    recorded = Store.set_status

    def disturbed(store, run_id, status, reason=None):
        if status == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        recorded(store, run_id, status, reason)

    monkeypatch.setattr(Store, "set_status", disturbed)
    monkeypatch.setattr(job._Job, "run", lambda *_: os.kill(os.getpid(), first))
    assert launch.main(TINY) == 130
    said = capsys.readouterr().err
    assert "Interrupted; nothing is lost. Go on with: python run_search.py --resume it" in said
    with Store("sqlite:///nas.db") as store:
        run = store.run("it")
        assert run.status == "interrupted"
        assert run.reason == ("Ctrl-C" if first == signal.SIGINT else "SIGTERM")


def test_what_is_interrupted_before_a_run_began_and_after_it_ended_says_so(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "load_subject", interrupted)
    assert launch.main(TINY) == 130
    assert "Interrupted before the run began." in capsys.readouterr().err
    monkeypatch.setattr(job, "search", lambda *_: object())
    monkeypatch.setattr(launch, "_print", interrupted)
    assert launch.main(TINY) == 130
    assert "the run is finished" in capsys.readouterr().err


def test_signals_are_as_before_when_it_is_recorded():
    before = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    with undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_name_that_a_terminal_cannot_write_is_written_in_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    output.write_what_can_be_written()
    print("süß 層", flush=True)
    assert raw.getvalue() == b"s\\xfc\\xdf \\u5c64\n"


@pytest.mark.parametrize("home", [None, "/proc/none"], ids=["none", "not writable"])
def test_without_a_home_programs_are_kept_as_long_as_the_process(home, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(compilation.CACHE, raising=False)
    if home is None:
        monkeypatch.setattr(compilation.Path, "home", nobody)
    else:
        monkeypatch.setenv("HOME", home)
    folder = compilation._cache_folder.__wrapped__()
    assert folder.is_dir()
    assert os.environ.pop(compilation.CACHE) == str(folder)  # by which the workers find it

"""Ctrl-C and SIGTERM, once and twice, and an environment that is not the developer's own."""

import io
import os
import signal
import subprocess
import sys
import time
import types
import weakref
from pathlib import Path

import pytest

from nas.commands import search as launch
from nas.errors import RunError
from nas.interrupts import check, heard, held, kept, stoppable, undisturbed
from nas.job import run as job
from nas.report import outcome, output
from nas.report.progress import Bar
from nas.store.sql import Store
from nas.training import compilation

WORDS = """--space.blocks (1,1) --space.widths (8,16) --space.strides (1,2) --space.stem-width 8 --space.last-width 16
--training.steps 5 --final.steps 5 --trials 3 --workers 0 --strategy random --max-images 100 --name it"""
TINY = WORDS.split()


@pytest.mark.parametrize("which", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("late", "status"), [(False, 130), (True, 0)])
def test_a_signal_while_python_ends_does_not_kill(which, late, status):
    """As long as libraries end, it ends the process; when Python has taken the handlers away, it comes to nothing."""
    script = """
import atexit, os, signal, sys
from nas.interrupts import leave

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), which=getattr(signal, sys.argv[1])):
        kill(me, which)

if sys.argv[2] == "True":
    sys.last = Last()
else:
    atexit.register(os.kill, os.getpid(), getattr(signal, sys.argv[1]))
leave(0)
"""
    ended = subprocess.run([sys.executable, "-c", script, which, str(late)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (status, "")


def test_sigterm_is_heard_as_ctrl_c_and_only_then():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), heard():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_a_library_swallows_is_heard_at_the_next_report():
    class Kept:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)  # an exception would be printed here, and lost

    with Bar() as bar, heard():
        library = Kept()
        del library
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            bar.show("Training", 0, 1, "")


def test_a_signal_in_a_callback_that_no_one_knows_of_comes_again(capfd):
    """As those by which SQLAlchemy hears that something is gone: Python prints what is raised there, and goes on."""

    class Thing:
        pass

    def gone(reference):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(10))  # Python calls a handler between two steps

    def job():
        library = Thing()
        kept = weakref.ref(library, gone)
        del library
        time.sleep(5)
        return kept

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), heard():
        job()
    assert "Traceback" not in capfd.readouterr().err


SENDS = """
import os, signal, time
os.kill(os.getpid(), signal.SIGTERM)
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    pass
"""


@pytest.mark.parametrize(("patience", "seconds", "is_whole"), [(10.0, 0.2, True), (0.2, 5.0, False)])
def test_a_library_that_is_being_imported_is_left_in_peace_for_a_while(
    patience, seconds, is_whole, tmp_path, monkeypatch
):
    """What is raised there becomes other errors, and aborts the process where the library is of another language."""
    (tmp_path / "a_library.py").write_text(SENDS.format(seconds=seconds))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("nas.interrupts.IMPORT_SECONDS", patience)

    def job():
        __import__("a_library")
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), heard():
        job()
    assert (sys.modules.pop("a_library", None) is not None) == is_whole


def test_a_command_that_is_interrupted_while_it_is_imported_says_nothing(tmp_path):
    (tmp_path / "a_library.py").write_text(SENDS.format(seconds=0.2))
    script = (
        "import time; from nas import interrupts; interrupts.run(lambda: __import__('a_library') and time.sleep(9))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (130, "")


def test_what_another_thread_met_ends_what_takes_long():
    with stoppable() as stop:
        check()
        stop(RunError("overtaken"))
        with pytest.raises(RunError, match="overtaken"):
            check()
    check()


def test_a_signal_of_one_job_is_none_of_the_next():
    def job():
        with heard():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        job()
    check()
    with held():
        pass


def test_signals_at_once_are_one_and_a_later_one_is_another(monkeypatch):
    times = iter([0.0, 0.0, 1.0, 1.9, 2.5, 2.5])
    monkeypatch.setattr("nas.interrupts.time", types.SimpleNamespace(monotonic=lambda: next(times)))
    raised = []

    def sent(which):
        try:
            os.kill(os.getpid(), which)
        except KeyboardInterrupt as interrupt:
            raised.append(str(interrupt))

    with heard():
        for which in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            sent(which)
    assert raised == ["SIGTERM", "SIGTERM"]  # what came first is the reason


def test_a_signal_at_once_is_no_other_one_where_what_heard_the_first_has_ended(monkeypatch):
    """As in a command, which is heard from its import on."""
    times = iter([0.0, 0.0, 1.0])
    monkeypatch.setattr("nas.interrupts.time", types.SimpleNamespace(monotonic=lambda: next(times)))
    with heard():
        with pytest.raises(KeyboardInterrupt), heard():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_held_ends_before_a_signal_is_heard():
    done = []

    def work():
        with heard(), held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(1)

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        work()
    assert done == [1]


def test_who_is_deaf_to_ctrl_c_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what runs in the background
    try:
        with heard():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_which_a_library_has_made_an_import_error_is_one():
    def imported():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("an error while initializing the extension") from None

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), heard():
        imported()
    with pytest.raises(ImportError), heard():
        raise ImportError("it is not there")


def test_a_library_that_ends_the_process_at_a_signal_only_interrupts_it():
    def library():
        with kept():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as `ray.init` does
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        library()


def test_a_process_that_was_interrupted_ends_in_peace():
    script = """
import atexit, os, signal
from nas.interrupts import leave
atexit.register(lambda: [os.kill(os.getpid(), which) for which in (signal.SIGINT, signal.SIGTERM)])
leave(130)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_between_storing_a_run_and_beginning_it_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    added = Store.add_run

    def disturbed(store, **fields):
        os.kill(os.getpid(), signal.SIGTERM)
        return added(store, **fields)

    monkeypatch.setattr(Store, "add_run", disturbed)
    assert launch.main(TINY) == 130
    assert "nas search --resume it\n" in capsys.readouterr().err
    with Store("sqlite:///nas.db") as store:
        assert store.run("it").status == "interrupted"
    assert launch.main(["--resume", "it"]) == 0


def test_what_cannot_be_written_to_is_no_traceback(tmp_path):
    root = Path(__file__).parent.parent
    with open("/dev/full", "w") as full:
        answer = (
            "from nas import interrupts; from nas.report import output; interrupts.leave(output.say('nas', 'found'))"
        )
        done = subprocess.run([sys.executable, "-c", answer], stdout=full, stderr=subprocess.PIPE, text=True, cwd=root)
        said = "nas: error: the answer cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)
        for line in (["-m", "nas", "tpo"], ["run_search.py", "--trials", "0"]):
            done = subprocess.run([sys.executable, *line], stdout=subprocess.PIPE, stderr=full, text=True, cwd=root)
            assert (done.returncode, done.stdout) == (2, "")
        words = f"{sys.executable} run_search.py --trials 0 2>&- >&-"
        assert subprocess.run(["bash", "-c", words], cwd=root).returncode == 2


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
    monkeypatch.setattr(job, "_outcome", lambda *_: os.kill(os.getpid(), first))
    assert launch.main(TINY) == 130
    said = capsys.readouterr().err
    assert "Interrupted; nothing is lost. Go on with: " in said
    assert "nas search --resume it\n" in said
    with Store("sqlite:///nas.db") as store:
        run = store.run("it")
        assert run.status == "interrupted"
        assert run.reason == ("Ctrl-C" if first == signal.SIGINT else "SIGTERM")


@pytest.mark.parametrize("status", ["running", "failed", "finished"])
def test_an_interrupt_while_a_status_is_recorded_is_recorded_too(status, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recorded = Store.set_status

    def disturbed(store, run_id, new, reason=None):
        if new == status:
            os.kill(os.getpid(), signal.SIGTERM)
        recorded(store, run_id, new, reason)

    def ended(*_):
        if status == "failed":
            raise RunError("it cannot be done")
        return outcome.Outcome("it", "sqlite:///nas.db", "error", [], [])

    monkeypatch.setattr(Store, "set_status", disturbed)
    monkeypatch.setattr(job, "_outcome", ended)
    assert launch.main(TINY) == (1 if status == "failed" else 130)
    assert "nas search --resume it" in capsys.readouterr().err
    with Store("sqlite:///nas.db") as store:
        assert store.run("it").status == ("failed" if status == "failed" else "interrupted")


def test_what_is_interrupted_before_a_run_began_and_after_it_ended_says_so(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "load_subject", interrupted)
    assert launch.main(TINY) == 130
    assert "Interrupted before the run began." in capsys.readouterr().err
    monkeypatch.setattr(job, "search", lambda *_: object())
    monkeypatch.setattr(outcome, "told", interrupted)
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

"""Files that do harm are refused in one line, or loaded with finite numbers. See tests/hostile for what they are."""

import os
import pickle  # noqa: TID251 - writes what the reader is to refuse
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import refusal
from safetensors.numpy import save_file

from nas.commands import cli
from nas.engine import loop
from nas.errors import UsageError
from nas.plain import from_json, read_bounded, write_whole
from nas.report import output
from nas.saved import checkpoint
from nas.store.sql import NewTrial, Store
from nas.unpickle import load
from spaces.nasbench201 import NasBench201
from strategies.random_search import RandomSearch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from tests.hostile import directed  # noqa: E402
from tests.hostile.child import numbers, put  # noqa: E402
from tests.hostile.readers import READERS  # noqa: E402

QUICK = ("table", "NATS-Bench, one pickle", "configuration", "--where and --limit", "latencies", "npz to predict")
LONG = ("bomb", "numbers of one hash", "sets", "20000 members", "digits and a letter")


@pytest.mark.usefixtures("unchecked")  # what is in a file may be of any type
@pytest.mark.parametrize("name", QUICK)
def test_what_was_written_to_do_harm_is_refused_in_one_line(tmp_path, name):
    (reader,) = (reader for reader in READERS if reader.name == name)
    files, refused = reader.sample(), 0
    for i, (what, spoil) in enumerate(directed.of(name)):
        if any(word in what for word in LONG):
            continue
        folder = tmp_path / str(i)
        folder.mkdir()
        put(files, folder)
        spoil(folder)
        said = ""
        try:
            found = list(numbers(reader.read(folder)))
        except UsageError as error:
            said, found = str(error), []
            refused += 1
        assert "\n" not in said, what
        assert all(np.isfinite(each).all() for each in found), what
    assert refused > 5
    assert not os.path.exists(directed.CANARY)


@pytest.mark.slow
def test_ten_thousand_changed_files_are_refused_or_loaded():
    """In children, whose memory, time and calls are watched."""
    words = [sys.executable, "-m", "tests.hostile", "--cases", "10000"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split("|")[2]) >= 10_000


def test_a_pickle_says_which_bound_it_passes(tmp_path):
    path = tmp_path / "x.pickle"
    for data, said in (
        (b"\x80\2)" + b"2\x86" * 60 + b".", "a tuple has more than 1000 values"),
        (b"(" * 2000, "more than 1000 levels of containers"),
        (b"\x80\4" + b"]" * 300_000 + b".", "more containers than its 133337 bytes can be of"),
        (b"\x80\2\x8b\xff\xff\xff\x7f.", "an integer has 2147483647 bytes; allowed: 1000"),
        (b"\x80\5\x96\0\0\0\0\1\0\0\0.", "the instruction 0x96 is not one of plain data"),
    ):
        path.write_bytes(data)
        assert said in refusal(load, path)
    path.write_bytes(b"\x80\2Nr\xff\xff\xff\x7f.")  # of the place of a memo no memory is taken
    assert load(path) is None


def test_lists_that_are_shared_are_read_as_they_are(tmp_path):
    inner = [("cifar10", 777), {"a": (1, 2)}]
    (tmp_path / "x.pickle").write_bytes(pickle.dumps([inner, inner, tuple(inner)]))
    assert load(tmp_path / "x.pickle") == [inner, inner, tuple(inner)]


def test_json_of_empty_lists_is_refused_before_it_is_read():
    assert from_json(b"[" + b"[1, 2, 3, 4]," * 1000 + b"[]]")[0] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="200001 lists and mappings, more than its 600003 bytes can be of"):
        from_json("[" + "[]," * 200_000 + "0]")


def test_json_of_too_many_levels_is_refused():
    for begin, end in (("[", "]"), ('{"a":', "}")):
        assert from_json(begin * 100 + "1" + end * 100)
        for levels in (101, 600, 10**5):
            with pytest.raises(ValueError, match="more than 100 levels of lists and mappings"):
                from_json(begin * levels + "1" + end * levels)
    assert len(from_json("[" + "[[]]," * 1000 + "0]")) == 1001


def test_a_file_of_weights_whose_note_is_no_mapping_is_refused(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors", {"note": "[1]"})
    assert "its note is no mapping" in refusal(checkpoint.read, tmp_path / "x.safetensors")
    assert "its note is no mapping" in refusal(checkpoint.note_of, tmp_path / "x.safetensors")


def test_there_is_no_digest_of_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "it is not a file" in refusal(checkpoint.digest, tmp_path / "pipe")
    assert "No such file" in refusal(checkpoint.digest, tmp_path / "none")


def test_many_who_write_one_file_each_write_all_of_it(tmp_path):
    """Also where somebody's own file has the name that one would take for a part."""
    path, own = tmp_path / "page.html", tmp_path / "page.html.tmp"
    own.write_text("mine")
    texts = [bytes([65 + i]) * 200_000 for i in range(4)]
    torn = []

    def write(text):
        for _ in range(30):
            write_whole(path, text)
            if path.read_bytes() not in texts:
                torn.append(text[:1])

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not torn
    assert sorted(each.name for each in tmp_path.iterdir()) == ["page.html", "page.html.tmp"]
    assert own.read_text() == "mine"


def test_a_file_that_begins_otherwise_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**40)
    start = read_bounded("image", tmp_path / "a.png", 2**20, "image", lambda start: start.startswith(b"\x89PNG"))
    assert start == bytes(32)
    assert "is longer than 1048576 bytes, which no image is" in refusal(
        read_bounded, "image", tmp_path / "a.png", 2**20, "image"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("import nats-bench {pipe} --out t.npz", "it is not a file"),
        ("show {pipe}", "it is not a file"),
        ("build {pipe} --space nasbench201 --out t.npz", "it is not a file"),
    ],
)
def test_a_pipe_is_not_waited_for(tmp_path, capsys, words, said):
    os.mkfifo(tmp_path / "pipe")
    assert cli.main(["table", *words.format(pipe=tmp_path / "pipe").split()]) == 2
    assert said in capsys.readouterr().err


# The terminal


def test_text_of_anybody_reaches_a_terminal_as_text(tmp_path, capsys):
    with Store(f"sqlite:///{tmp_path / 'nas.db'}", create=True) as store:
        about = {"space": "toy", "strategy": "random", "task": "\x1b[2Jtask", "code_version": "1", "seed": 0}
        run = store.add_run(name="it", config={}, **about)
        store.add_trials(run.id, [NewTrial(0, "a" * 12, [1], "<b>\x1b]0;x\x07\nline\u202e", "toy", 1, 0)])
        measured = {"error": 0.5, "[/red]\x1b[8m": 1.0}
        store.finish_trial(run.id, 0, metrics=measured, error=None, seconds=1.0)
    for question in ("runs", "top it", "show aaa", "top it --format csv", "pareto it --objectives error,x\x1b[2J"):
        cli.main([*question.split(" "), "--store", f"sqlite:///{tmp_path / 'nas.db'}"])
        printed = "".join(capsys.readouterr())
        assert not {"\x1b", "\x07", "\u202e"} & set(printed), question
    assert "[/red]" in output.render([{"[/red]": 1}], (), "table")


def test_an_error_is_of_bounded_length(capsys):
    output.complain("nas", UsageError("x" * 10**6 + "\x1b[2J"))
    assert len(capsys.readouterr().err) < 2100


def test_a_page_escapes_what_is_markup(tmp_path):
    from nas.report.facts import facts_of
    from nas.report.page import run_page
    from nas.report.views import Asked

    with Store(f"sqlite:///{tmp_path / 'nas.db'}", create=True) as store:
        about = {"space": "<i>", "strategy": "<s>", "task": "<script>task", "code_version": "<v>", "seed": 0}
        run = store.add_run(name="<script>name", config={"environment": {"<k>": "<e>"}}, **about)
        for i in range(3):
            store.add_trials(run.id, [NewTrial(i, f"<{i}>", [i], "<script>row", "toy", 1, 0)])
            store.finish_trial(run.id, i, metrics={"error": 0.5, "macs": 1.0 + i}, error=None, seconds=1.0)
        page = run_page(facts_of(store, "<script>name"), Asked("<script>store", "<script>again", ["<script>asks"]))
    assert not [
        odd for odd in ("<script>name", "<script>task", "<script>row", "<script>a", "<k>", "<e>") if odd in page
    ]
    assert "&lt;script&gt;name" in page


# Devices and stores


@pytest.mark.slow
def test_a_device_that_this_machine_has_not_is_one_line(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    words = [sys.executable, "-m", "nas", "search", "--task", "digits", "--store", f"sqlite:///{tmp_path / 'nas.db'}"]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "JAX_PLATFORMS='cuda' must name devices that JAX finds on this machine, such as cpu" in done.stderr
    assert done.stderr.count("\n") == 1


class Torn:
    """A log in which a trial was reported, and nobody knows when."""

    def entries(self):
        return [loop.Entry((0,) * 6, 1, (0.5,))], []

    def ask(self, number, entries):
        raise AssertionError

    report = repeat = ask

    def flush(self):
        pass


@pytest.mark.usefixtures("unchecked")
def test_a_log_whose_trials_wait_for_one_another_is_refused():
    search = loop.Search(RandomSearch(), NasBench201(), (), jax.random.key(0), 1, 1)
    with pytest.raises(UsageError, match="its trials wait for one another"):
        loop.run(search, executor=None, log=Torn(), seed=0)  # pyright: ignore


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("create view seen as select * from run", "has a view, 'seen', which no store of ours has"),
        ("create trigger seen after update on run begin delete from trial; end", "has a trigger, 'seen'"),
        ("alter table run add column x as (zeroblob(9))", "has columns of run that are computed"),
    ],
)
def test_a_database_that_computes_when_it_is_read_is_no_store(tmp_path, statement, said):
    import sqlite3

    Store(f"sqlite:///{tmp_path / 'nas.db'}", create=True).close()
    with sqlite3.connect(tmp_path / "nas.db") as database:
        database.execute(statement)
    assert said in refusal(Store, f"sqlite:///{tmp_path / 'nas.db'}")

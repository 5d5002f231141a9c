"""Pages of runs: one file, whatever the run is; what a store says is text in it; browsers show it without overflow."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from nas.commands import again
from nas.commands.cli import main
from nas.commands.looks import looked_at
from nas.commands.report import KINDS
from nas.config import build, parse, to_data
from nas.errors import UsageError
from nas.plain import check_target
from nas.report import facts, importance
from nas.report.page import run_page, runs_page
from nas.report.plots import OF_RUNS
from nas.report.verdict import verdict
from nas.store.sql import NewTrial, Store
from spaces import presets
from spaces.base import identify

EVIL = "<script>alert(1)</script>\"'&"
SPACE = {"name": "shufflenet:tiny"}
FINALS = {"finalists": 3, "baselines": 1}


def fill(store: Store, name: str, *, trials: int = 8, objective: str = "error", finals: int = 0, **given) -> None:
    """A run of trials that were drawn, the score of which depends on the first decision most."""
    space, rng = presets("shufflenet")["tiny"], np.random.default_rng(0)
    strategy = given.pop("strategy", "random")
    status, config = given.pop("status", "finished"), given.pop("config", {})
    space_name = given.pop("space", SPACE)
    whole = {"space": space_name, "strategy": {"name": strategy}, "task": "digits", "objectives": objective}
    whole |= {"trials": 40, "epochs": 12, "seed": 3, **FINALS, **given}
    metric = config.pop("metric", "error")
    run = store.add_run(
        name=name,
        space="shufflenet",
        strategy=given.get("kind", strategy),
        task="digits",
        config={"given": {k: v for k, v in whole.items() if k != "kind"}, "metric": metric, **config},
        code_version="0",
        seed=3,
    )
    rows = rng.integers(0, 4, (max(trials, finals), 9))
    known = identify(space, rows)
    new = [NewTrial(i, a.id, rows[i].tolist(), f"{EVIL} {i}", "shufflenet", i, 0) for i, a in enumerate(known)]
    sign = -1 if objective.startswith("minus_") else 1
    store.add_trials(run.id, new[:trials])
    for i in range(trials):
        score = sign * (0.1 + 0.05 * rows[i][0] + 0.01 * rows[i][1])
        metrics = {objective.split(",")[0]: score, "macs": 1e6 + 1e4 * int(rows[i].sum()), "params": 1e5}
        failed = i == 4
        store.finish_trial(run.id, i, metrics=None if failed else metrics, error=EVIL if failed else None, seconds=1)
    store.add_trials(run.id, new[:finals], kind="final")
    for i in range(finals):
        metrics = {f"standalone_{metric}": sign * (0.1 + 0.01 * i), f"test_{metric}": sign * (0.12 + 0.01 * i)}
        store.finish_trial(run.id, i, metrics=metrics, error=None, seconds=9, kind="final")
    if status != "running":
        store.set_status(run.id, status, EVIL if status == "failed" else None)


RUNS = {
    f"black-box {EVIL}".replace("/", ""): {
        "trials": 30,
        "finals": 4,
        "config": {
            "images": {"train": 900, "valid": 300, "test": 360},
            "environment": {"python": "3.11", "devices": EVIL},
        },
    },
    "running": {"trials": 7, "status": "running"},
    "empty": {"trials": 0, "status": "failed"},
    "gradient": {"trials": 12, "strategy": "gumbel-darts", "finals": 2},
    "detection": {"trials": 24, "objective": "minus_ap", "config": {"metric": "minus_ap"}, "finals": 2},
    "zero-cost": {"objective": "minus_naswot", "evaluator": {"name": "zero-cost"}},
    "regression": {"objective": "rmse", "config": {"metric": "rmse"}, "finals": 2},
    "several": {"objective": "error,macs,params"},
    "own": {"space": {"name": "elsewhere/x.py:Mine"}},
    "retrain": {"trials": 0, "finals": 1, "kind": "retrain", "architecture": "(0,0,0,0,0,0,0,0,0)"},
    "odd": {"trials": 0, "strategy": EVIL, "config": {"given": None}, "status": "interrupted"},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/nas.db"
    with Store(url, create=True) as store:
        for name, run in RUNS.items():
            fill(store, name, **{k: dict(v) if isinstance(v, dict) else v for k, v in run.items()})
    return url


@pytest.fixture(scope="module")
def pages(url) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch, Store(url) as store:
        patch.setattr(importance, "TREES", 4)
        found = {name: run_page(*looked_at(store, name)) for name in RUNS}
        return found | {"the list": runs_page(store.runs(), store.url, "", live=False)}


EVERY = pytest.mark.parametrize("name", [*RUNS, "the list"], ids=[*(n[:9] for n in RUNS), "list"])


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.ids, self.targets = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.targets += [values["data-open"]] if "data-open" in values else []
        self.targets += re.findall(r"url\(#(.*?)\)", values.get("marker-end") or "")
        for name in ("src", "href", "action"):
            assert name not in values or values[name].startswith(("data:", "/run/")), values
        assert not any(name.startswith("on") for name in values)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@EVERY
def test_a_page_is_whole_alone_and_has_no_script_but_its_own(pages, name):
    reader = Reader()
    reader.feed(pages[name])
    assert reader.open == []
    assert reader.tags.count("script") == 1
    assert reader.tags.count("h1") == 1
    assert len(set(reader.ids)) == len(reader.ids)
    assert set(reader.targets) <= set(reader.ids)
    assert "img" not in reader.tags
    assert not re.search(r"https?://(?!www\.w3\.org)", pages[name])


def test_a_run_with_everything_shows_everything(pages):
    page = pages[next(iter(RUNS))]
    for said in (
        "Kendall&#39;s tau",
        "n = 4",
        "of 360 test images",
        "Functional analysis of variance",
        "3.11",
        "29 of 40",
    ):
        assert said in page
    assert page.count("<svg") > 9 + 4
    assert "nas search --space shufflenet:tiny --strategy random" in page
    assert "nas top" in page


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("running", "at least 20 are needed"),
        ("running", "--resume"),
        ("empty", "No trial has finished"),
        ("gradient", "epochs finished"),
        ("detection", "by ap (most is best)"),
        ("zero-cost", "best naswot in the search"),
        ("regression", "test_rmse"),
        ("several", "the first two of error, macs, params"),
        ("own", "There are no drawings"),
        ("own", "decision 0"),
        ("retrain", "Nothing was searched"),
        ("odd", "does not say on what machine"),
    ],
)
def test_each_kind_of_run_says_what_it_is(pages, name, said):
    assert said in pages[name]


def test_the_command_repeats_the_run(url):
    given = [
        "--space",
        "shufflenet:tiny",
        "--space.widths",
        "(16,32,64)",
        "--space.stem-width",
        "16",
        "--strategy",
        "nsga2",
        "--unordered",
    ]
    given += ["--objectives", "error,macs", "--limit", "macs <= 1e6", "--final.steps", "70", "--strategy.memory", "99"]
    data, _ = parse(given)
    asked = build(data)
    kept = {name: value for name, value in to_data(asked, data).items() if name != "store"}
    with Store(url) as store:
        run = store.run("running")
    run.config["given"] = json.loads(json.dumps(kept))
    words = list(again.flags(run))
    assert build(parse(words)[0]) == asked
    assert len(words) < 2 * len(given)


def test_the_file_is_written_and_its_place_checked(capsys, tmp_path, url):
    out = tmp_path / "run.html"
    assert main(["report", "gradient", "--out", str(out), "--store", url]) == 0
    assert "gradient" in capsys.readouterr().out
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert main(["report", "gradient", "--out", str(tmp_path / "no" / "run.html"), "--store", url]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["report", "gradint", "--out", str(out), "--store", url]) == 2
    assert "did you mean 'gradient'?" in capsys.readouterr().err


def test_ranks_need_three_pairs_and_go_up_with_agreement(url):
    with Store(url) as store:
        few = facts.rank_agreement(facts.facts_of(store, "detection"))
        some = facts.rank_agreement(facts.facts_of(store, next(iter(RUNS))))
    assert (len(few.pairs), few.tau) == (2, None)
    assert all(before > 0 and after > 0 for before, after in few.pairs)  # ap, not its negative
    assert len(some.pairs) == 4
    assert some.tau is not None
    assert -1 <= some.tau <= 1


def test_the_page_says_of_a_difference_what_the_job_says(url, capsys, tmp_path):
    name, out = next(iter(RUNS)), tmp_path / "page.html"
    assert main(["report", name, "--out", str(out), "--store", url]) == 0
    said = str(verdict("error", 0.12, [0.15], images=360))
    assert "less than chance explains" in said
    assert said in out.read_text()
    capsys.readouterr()


def test_the_kinds_that_the_command_takes_are_those_that_there_are():
    assert (*OF_RUNS, "compare") == KINDS


@pytest.mark.parametrize("kind", OF_RUNS)
@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_a_run_is_plotted(capsys, tmp_path, url, kind, ending):
    out = tmp_path / f"plot{ending}"
    assert main(["plot", "detection", "--kind", kind, "--out", str(out), "--store", url]) == 0
    assert out.stat().st_size > 3000
    if ending == ".svg":
        assert "<text" in out.read_text()  # text, not paths
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["empty", "--kind", "history", "--out", "x.png"], "no trial has finished"),
        (["empty", "--kind", "pareto", "--out", "x.png"], "of which there must be two"),
        (["running", "--kind", "importance", "--out", "x.png"], "at least 20"),
        (["running", "--kind", "histroy", "--out", "x.png"], "did you mean 'history'?"),
        (["running", "--out", "x.gif"], "must end in one of .png, .svg, .pdf"),
    ],
)
def test_what_cannot_be_plotted_is_said(capsys, tmp_path, monkeypatch, url, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *words, "--store", url]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FRAME = """<!DOCTYPE html><body>{frames}<script>
addEventListener("load", () => {{ document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((f) => {{
  const root = f.contentDocument.documentElement, dialog = f.contentDocument.querySelector("dialog");
  const opener = f.contentDocument.querySelector("circle[data-open]");
  if (opener) opener.dispatchEvent(new f.contentWindow.MouseEvent("click", {{ bubbles: true }}));
  const opens = !opener || f.contentDocument.querySelectorAll("dialog[open]").length === 1;
  return [f.name, root.scrollWidth, f.contentWindow.innerWidth, opens];
}})); }});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_pages_without_errors_or_overflow(tmp_path, pages):
    frames = ""
    for i, (name, page) in enumerate(pages.items()):
        (tmp_path / f"{i}.html").write_text(page)
        for width in (1280, 400):
            frames += f'<iframe name="{name[:9]} {width}" src="{i}.html" width="{width}" height="900"></iframe>'
    (tmp_path / "all.html").write_text(FRAME.format(frames=frames))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, (tmp_path / "all.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found = json.loads(title[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert len(found) == 2 * len(pages)
    for name, wide, inner, opens in found:
        assert wide <= inner, name
        assert opens, name


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    closed, free = tmp_path / "closed", tmp_path / "free"
    for folder in (closed, free):
        folder.mkdir()
    monkeypatch.setattr("nas.plain.os.access", lambda folder, how: folder != str(closed))
    (closed / "link.html").symlink_to(free / "it.html")
    with pytest.raises(UsageError, match=r"out cannot be written: .*closed' is read-only"):
        check_target("out", closed / "it.html")
    check_target("out", closed / "link.html")  # which leads elsewhere

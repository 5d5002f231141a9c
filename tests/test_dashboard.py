"""The dashboard: pages of this machine for this machine, read only, that follow a store as it grows."""

import http.client
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nas.commands import dashboard
from nas.commands.cli import main
from nas.store.sql import NewTrial, Store

NAME = 'a <b> & "c"'


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/nas.db"
    with Store(url, create=True) as store:
        for name in (NAME, "dead"):
            config = {"given": {"space": {"name": "/nowhere/mine.py:Mine"}}}
            facts = {"space": "toy", "strategy": "random", "task": "digits", "code_version": "0", "seed": 0}
            run = store.add_run(name=name, config=config, **facts)
            if name == "dead":
                store.set_status(run.id, "failed")
        finish(store, 0)
    return url


def finish(store: Store, number: int) -> None:
    run = store.run(NAME)
    store.add_trials(run.id, [NewTrial(number, f"{number}af3", [number, 1], "toy", "toy", 0, 0)])
    store.finish_trial(run.id, number, metrics={"error": 0.5 - number / 10}, error=None, seconds=1)


@pytest.fixture(scope="module")
def port(url):
    with dashboard.server(url, 0) as serving:
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def test_the_list_leads_to_every_run_that_holds_something(port):
    status, page, headers = ask(port, "/")
    assert status == 200
    links = re.findall(r'href="(/run/[^"]*)"', page)
    assert links == ["/run/a%20%3Cb%3E%20%26%20%22c%22"]
    assert "1 run that ended and left nothing is left out" in page
    assert "<b>" not in page
    assert headers["Cache-Control"] == "no-store"
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    status, page, _ = ask(port, links[0])
    assert (status, "0af3" in page) == (200, True)


def test_a_page_follows_its_run(port, url):
    path = "/run/a%20%3Cb%3E%20%26%20%22c%22"
    assert "1af3" not in ask(port, path)[1]
    with Store(url) as store:
        finish(store, 1)
    assert "1af3" in ask(port, path)[1]


def test_a_run_that_takes_the_name_and_the_place_of_a_deleted_one_is_another(port, url):
    facts = {"space": "toy", "strategy": "random", "task": "digits", "code_version": "0", "seed": 0}
    with Store(url) as store:
        for number in (7, 8):
            run = store.add_run(name="again", config={"given": {}, "identity": str(number)}, **facts)
            store.add_trials(run.id, [NewTrial(0, f"{number}bf3", [number, 1], "toy", "toy", 0, 0)])
            store.finish_trial(run.id, 0, metrics={"error": 0.5}, error=None, seconds=1)
            store.set_status(run.id, "finished")
            assert f"{number}bf3" in ask(port, "/run/again")[1]
            store.delete(run)


def test_whatever_goes_wrong_a_browser_is_answered(port, monkeypatch):
    def fails(*_, **__):
        raise OverflowError("too\nlarge")

    monkeypatch.setattr(dashboard, "runs_page", fails)
    status, page, _ = ask(port, "/")
    assert (status, page) == (500, "This page cannot be made: OverflowError: too large\n")


@pytest.mark.parametrize(
    "path",
    ["/x", "/run/", "/run/a", "/run/../etc/passwd", "/%2e%2e/etc/passwd", "/run/%00%ff", "*", "http://other/"],
)
def test_there_is_nothing_else(port, path):
    status, page, headers = ask(port, path)
    assert status == 404
    assert page.startswith("There is no such")
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1.other.example:80"])
def test_another_host_is_refused(port, host):
    assert ask(port, "/", host=host)[0] == 403


def test_this_machine_may_be_called_localhost(port):
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_can_be_changed(port, method):
    assert ask(port, "/", method)[0] == 501


def test_a_long_address_is_refused(port):
    assert ask(port, "/run/" + "x" * 3000)[0] == 414


@pytest.mark.parametrize(("given", "said"), [("70000", "must lie in 0..65535"), ("x", "must be a valid integer")])
def test_a_port_that_is_none_is_refused(capsys, url, given, said):
    assert main(["dashboard", "--port", given, "--store", url]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(capsys, url, port):
    assert main(["dashboard", "--port", str(port), "--store", url]) == 2
    assert "name another, or 0 for any" in capsys.readouterr().err


@pytest.mark.slow
def test_one_line_says_the_address_and_ctrl_c_ends_it(url):
    command = [sys.executable, "-m", "nas", "dashboard", "--port", "0", "--store", url]
    folder = Path(__file__).parent.parent
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=os.environ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found is not None
        assert ask(int(found[1]), "/")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait(20) == 130


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_sees_news_without_being_asked(tmp_path, url, monkeypatch):
    counted = itertools.count(1)
    pages = dashboard.runs_page
    monkeypatch.setattr(dashboard, "runs_page", lambda rows, store, _: pages(rows, store, f"look {next(counted)}"))
    with dashboard.server(url, 0) as serving:
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=14000"]
        command = [str(CHROMIUM), *flags, f"http://127.0.0.1:{serving.server_port}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        serving.shutdown()
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search(r"look (\d+)", done.stdout)
    assert found is not None
    assert int(found[1]) > 1

"""Pages of runs: each one file that needs nothing else, no network among it.

Text of a store is data: the templates escape it, and a policy in the page lets no script run but its own.
"""

import base64
import datetime
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nas.report import views
from nas.report.facts import Facts
from nas.report.views import Asked, cell
from nas.store.query import Row

PAGES = Path(__file__).with_name("pages")


def run_page(facts: Facts, asked: Asked, *, live: bool = False, home: str | None = None) -> str:
    """All that there is to see of a run. `live` pages look for news, and `home` is where the list of runs is."""
    live = live and facts.run.status == "running"
    return _rendered("run.html", live=live, home=home, **views.run(facts, asked, live=live))


def runs_page(rows: Sequence[Row], store: str, hidden: str, *, live: bool = True) -> str:
    """The list of runs, the latest first, each with a link to its page."""
    return _rendered("runs.html", live=live, runs=listed(rows), store=store, hidden=hidden)


def listed(rows: Sequence[Row]) -> views.Table:
    columns = ("name", "status", "space", "strategy", "task", "trials", "objective", "best", "started")
    cells = [
        [
            cell(row["name"], link=f"/run/{quote(row['name'], safe='')}"),
            *(cell(row[name], of=row["objective"] if name == "best" else name) for name in columns[1:-1]),
            cell(views.moment(row["started"]))._replace(whole=True),
        ]
        for row in reversed(rows)
    ]
    return views.Table(columns, cells, [name in ("trials", "best") for name in columns])


@functools.cache
def _templates() -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(PAGES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def _rendered(name: str, **values: Any) -> str:
    from markupsafe import Markup

    style = (PAGES / "style.css").read_text()
    now = views.moment(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    ours = {"style": Markup(style), "script": Markup(script()), "policy": Markup(policy(script())), "now": now}
    return _templates().get_template(name).render(**ours, **values)


@functools.cache
def script() -> str:
    return (PAGES / "script.js").read_text()


def policy(script: str) -> str:
    """What the page may load and run: its own styles and its own script, and where it is served itself anew."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'")
    return "; ".join([*rules, "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'"])

"""`bx usage`: what it shows of a ledger, what it writes, and what it forgets."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx import prices
from bx.cli import main, table
from bx.cli.terminal import Terminal
from bx.ledger import report
from bx.ledger.store import Store
from test_cli_ask import bx

pytestmark = pytest.mark.usefixtures("private_home")

CLAUDE = "us.anthropic.claude-sonnet-4-6"
HOUSE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6"
DAY = 86400


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """A ledger of this test's: ledger(days_ago, model, **columns) writes a call."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("BX_LEDGER", str(path))
    store = Store(path)
    noon = report.midnight(report.day_of(time.time())) + DAY / 2  # a changed clock moves it by an hour, not by a day

    def write(days_ago=0, model_id=CLAUDE, **columns):
        row = {"at": noon - days_ago * DAY, "model_id": model_id, "region": "us-east-1", "engine": "bedrock"}
        row |= {"operation": "Converse", "outcome": "answered", "input_tokens": 1000, "output_tokens": 100}
        store.write({**row, **columns})

    write.path = path
    yield write
    store.close()


def cells(line):
    return re.split(r"\s{2,}", line)


def as_json(*arguments):
    outcome = bx("usage", *arguments, "--format", "json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


# ---- showing ----------------------------------------------------------------------------------------------------


def test_today_this_week_and_this_month_are_shown(ledger):
    ledger()
    ledger(input_tokens=0, output_tokens=10_000)
    ledger(400)
    head, today, week, month = bx("usage").out.splitlines()
    assert cells(head) == ["", "CALLS", "INPUT", "OUTPUT", "COST"]
    # 1,000 x 3.30 + 100 x 16.50, and 10,000 x 16.50, per million
    assert cells(today) == ["Today", "2", "1,000", "10,100", "$0.1700"]
    assert (cells(week)[0], cells(month)[0]) == ("This week", "This month")
    assert cells(week)[1:] == cells(month)[1:] == cells(today)[1:]


def test_an_empty_ledger_is_no_failure(ledger):
    outcome = bx("usage")
    assert (outcome.code, [cells(line)[-1] for line in outcome.out.splitlines()[1:]]) == (0, ["$0.0000"] * 3)
    assert f"no call has been counted yet in {ledger.path}" in outcome.err
    assert bx("usage", "--by", "day", "--plot").out == "TOTAL: $0.0000\n"
    assert not ledger.path.exists()


def test_no_ledger_at_all_is_said(monkeypatch):
    monkeypatch.setenv("BX_LEDGER", "off")
    outcome = bx("usage")
    assert (outcome.code, outcome.out) == (2, "")
    assert "No ledger is kept" in outcome.err


def test_a_damaged_ledger_is_said(ledger):
    ledger.path.write_bytes(b"not a database" * 100)
    outcome = bx("usage")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"The ledger {ledger.path} is damaged" in outcome.err


def test_calls_are_told_apart_by_model_the_dearest_first(ledger):
    ledger(model_id="global.amazon.nova-2-lite-v1:0", cache_read_tokens=4000)
    ledger(outcome="failed")
    ledger(model_id="local", engine="local", region=None)
    title, *lines = bx("usage", "--by", "model").out.splitlines()
    assert title.startswith("Since ")
    assert [cells(line) for line in lines] == [
        ["MODEL", "CALLS", "FAILED", "INPUT", "OUTPUT", "CACHED", "COST"],
        [CLAUDE, "1", "1", "1,000", "100", "0", "$0.0050"],
        ["global.amazon.nova-2-lite-v1:0", "1", "0", "1,000", "100", "4,000", "$0.0009"],
        ["local", "1", "0", "1,000", "100", "0", "$0.0000"],
        ["TOTAL", "3", "1", "3,000", "300", "4,000", "$0.0058"],
    ]


def test_an_unknown_price_is_unknown_and_totals_say_at_least(ledger):
    ledger()
    ledger(model_id=HOUSE)
    ledger(input_tokens=None, output_tokens=None, outcome="abandoned")
    outcome = bx("usage", "--by", "model")
    costs = [cells(line)[-1] for line in outcome.out.splitlines()[2:]]
    assert costs == ["at least $0.0050", "unknown", "at least $0.0050"]
    assert f"there is no price for all calls of {HOUSE}" in outcome.err
    assert f'[prices."{HOUSE}"]' in outcome.err
    assert "what 1 call cost is not known" in outcome.err
    groups = as_json("--by", "model")["groups"]
    assert [(group["cost"], group["unpriced_calls"]) for group in groups] == [(0.00495, 1), (None, 1)]


def test_the_users_prices_hold(ledger, private_home):
    folder = private_home / ".config" / "bx"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'[prices."{HOUSE}"]\ninput = 2.0\noutput = 10\n')
    ledger(model_id=HOUSE)
    assert as_json("--by", "model")["groups"][0]["cost"] == 0.003
    (folder / "config.toml").write_text('[prices."x.y"]\nprice = 2.0\n')
    outcome = bx("usage")
    assert (outcome.code, "prices.x.y: unknown key 'price'" in outcome.err) == (2, True)


def test_a_project_cannot_make_calls_cheaper(ledger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bx.toml").write_text(f'[prices."{CLAUDE}"]\ninput = 0\noutput = 0\n')
    ledger()
    assert as_json("--by", "model")["groups"][0]["cost"] == 0.00495


def test_a_time_is_chosen_by_its_first_and_last_day(ledger):
    for days_ago in (0, 1, 5, 40):
        ledger(days_ago)
    count = lambda *arguments: sum(group["calls"] for group in as_json("--by", "day", *arguments)["groups"])  # noqa: E731
    assert [count("--since", since) for since in ("today", "2d", "6d", "all")] == [1, 2, 3, 4]
    yesterday = str(report.day_of(time.time() - DAY))
    assert count("--since", "all", "--until", yesterday) == 3
    assert count("--since", yesterday, "--until", yesterday) == 1


def test_json_and_csv_have_documented_names(ledger):
    ledger(tag="search", cache_write_5m_tokens=10, cache_write_1h_tokens=5)
    told = as_json("--by", "tag,region")
    assert told.keys() == {"currency", "by", "since", "until", "groups"}
    names = ["tag", "region", "calls", "failed", "input_tokens", "output_tokens", "cache_read_tokens"]
    names += ["cache_write_tokens", "cost", "unpriced_calls"]
    assert list(told["groups"][0]) == names
    (line,) = csv.DictReader(io.StringIO(bx("usage", "--by", "tag,region", "--format", "csv").out))
    assert list(line) == names
    assert Decimal(line["cost"]) == Decimal(str(told["groups"][0]["cost"]))
    page = (Path(__file__).parent.parent / "docs" / "usage.md").read_text()
    assert all(f"`{name}`" in page for name in [*names, *told])
    assert [group["period"] for group in as_json()["groups"]] == ["today", "week", "month"]


def test_the_cost_is_drawn_as_bars(ledger):
    ledger(0)
    ledger(2, input_tokens=2000, output_tokens=200)
    *lines, total = bx("usage", "--plot", "--since", "5d").out.splitlines()
    bars = [line.count("█") for line in lines]
    assert len(bars) == 3
    assert (bars[1], bars[0]) == (0, pytest.approx(2 * bars[2], abs=2))
    assert total == "TOTAL: $0.0149"


def on_terminal(columns, *arguments):
    """What a terminal of some columns shows."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, columns.to_bytes(2, sys.byteorder).rjust(4, b"\0") + bytes(4))
    command = [sys.executable, "-m", "bx", "usage", *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL) as running:
        os.close(slave)
        shown = b""
        while piece := _read(master):
            shown += piece
    os.close(master)
    assert running.returncode == 0
    return shown.decode().replace("\r\n", "\n").splitlines()


def _read(master):
    try:
        return os.read(master, 4096)
    except OSError:  # how Linux tells the end of a terminal
        return b""


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal is POSIX's")
@pytest.mark.parametrize("arguments", [[], ["--by", "model"], ["--by", "tag,model"], ["--by", "model", "--plot"]])
def test_tables_fit_the_terminal(ledger, arguments):
    for model_id in (CLAUDE, HOUSE, "eu.anthropic.claude-haiku-4-5-20251001-v1:0"):
        ledger(model_id=model_id, input_tokens=12_345_678, cache_read_tokens=3_456_789, tag="日本語のプロジェクト")
        ledger(model_id=model_id, outcome="failed", tag="x" * 200)
    for columns in (80, 120):
        lines = on_terminal(columns, *arguments)
        assert lines
        assert max(map(len, lines)) <= columns
        assert "at least $" in lines[-1]


@given(st.lists(st.tuples(st.text(), st.text(), st.integers(0, 10**6).map(str)), min_size=1), st.integers(24, 120))
def test_a_table_and_bars_keep_within_their_width(rows, width):
    assert table.fits(table.table(rows, (2,), width), width)
    assert table.fits(
        table.bars([(label, int(value), value) for label, _, value in rows], max(width, 44)), max(width, 44)
    )
    assert len(table.table(rows, (2,), width)) == len(rows)


def test_a_text_of_a_call_stays_in_its_line(ledger):
    ledger(tag="two\nlines\t\x1b[31m")
    _, _, line, _ = bx("usage", "--by", "tag").out.splitlines()
    assert line.startswith("two\\nlines\\t\\x1b[31m  ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "colour"], "--by colour: there is nothing of that name"),
        (["--since", "yesterday"], "'yesterday' is no day"),
        (["--until", "2020-01-01"], "--until 2020-01-01 is before the beginning"),
        (["--plot", "--format", "csv"], "--format and --plot exclude each other"),
        (["--html", "x", "--by", "day"], "--by has no effect with --html"),
        (["prune"], "Say which calls to forget"),
        (["prune", "--keep", "9d", "--before", "today"], "Say which calls to forget"),
        (["prune", "--since", "9d"], "--since has no effect with bx usage prune"),
        (["export", "--by", "day"], "--by has no effect with bx usage export"),
        (["--keep", "9d"], "--keep has no effect with bx usage"),
        (["erase"], "bx usage erase: there is no such action"),
        (["prune", "file", "--keep", "9d"], "file has no meaning here"),
        (["--format", "xml"], "invalid choice"),
    ],
)
def test_options_without_effect_are_refused(ledger, arguments, message):
    ledger()
    outcome = bx("usage", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert "    -> " in outcome.err


# ---- export and prune -------------------------------------------------------------------------------------------


def test_export_writes_every_call_with_its_cost(ledger, tmp_path):
    ledger(50)
    ledger(model_id=HOUSE)
    lines = list(csv.DictReader(io.StringIO(bx("usage", "export", "-q").out)))
    assert [(line["model_id"], line["cost"]) for line in lines] == [(CLAUDE, "0.00495"), (HOUSE, "unknown")]
    file = tmp_path / "calls.csv"
    outcome = bx("usage", "export", str(file), "--since", "7d")
    assert (outcome.code, outcome.out) == (0, "")
    assert [line["model_id"] for line in csv.DictReader(io.StringIO(file.read_text()))] == [HOUSE]
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    outcome = bx("usage", "export", str(tmp_path / "none" / "calls.csv"))
    assert (outcome.code, "cannot be written: No such file" in outcome.err) == (2, True)


def test_prune_asks_before_it_forgets(ledger):
    for days_ago in (0, 5, 100, 101):
        ledger(days_ago)
    outcome = bx("usage", "prune", "--keep", "90d")
    assert outcome.code == 2
    assert "2 calls from before" in outcome.err
    assert "--yes" in outcome.err
    assert len(list(Store(ledger.path).rows())) == 4
    assert "2 calls were forgotten" in bx("usage", "prune", "--keep", "90d", "--yes").err
    assert "there are no calls from before" in bx("usage", "prune", "--keep", "90d", "--yes").err
    assert "1 call was forgotten" in bx("usage", "prune", "--before", "today", "-y").err
    assert len(list(Store(ledger.path).rows())) == 1


@pytest.mark.parametrize(("reply", "left"), [("y\n", 1), ("n\n", 2), ("\n", 2), ("", 2)])
def test_prune_forgets_only_after_a_yes(ledger, reply, left):
    ledger(0)
    ledger(100)
    terminal = Terminal(io.StringIO(reply), io.StringIO(), io.StringIO())
    terminal.interactive = True
    assert main(["usage", "prune", "--keep", "90d"], terminal) == 0
    assert "Forget 1 call from before" in terminal.stderr.getvalue()
    assert len(list(Store(ledger.path).rows())) == left


# ---- the page ---------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """
<pre id="measured"></pre>
<script>
const box = (node) => {
  const found = node.getBoundingClientRect();
  return [found.width, found.height, found.right];
};
document.getElementById("measured").textContent = JSON.stringify({
  charts: [...document.querySelectorAll(".chart")].map((chart) => ({
    right: box(chart)[2],
    bars: [...chart.querySelectorAll(".bar")].map(box),
    texts: [...chart.querySelectorAll("text")].map((text) => [...box(text), text.textContent]),
  })),
  width: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
  tables: [...document.querySelectorAll("table")].map((table) => [table.id, table.innerText]),
  figures: document.querySelector("dl").innerText,
});
</script>"""


@pytest.fixture
def rendered(tmp_path):
    """What a browser makes of a page: rendered(file, width)."""
    if BROWSER is None:
        pytest.skip("no browser is installed: apt-get install chromium")

    def render(file, width=1000):
        measured = tmp_path / "measured.html"
        text = re.sub(r"<meta http-equiv[^>]*>", "", file.read_text())  # which forbids what measures
        measured.write_text(text.replace("</body>", MEASURE + "</body>"))
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--window-size={width},900", "--dump-dom", measured.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)[1]))

    return render


def test_the_page_shows_in_a_browser_what_was_spent(ledger, tmp_path, rendered):
    ledger(0, tag="search")
    ledger(2, input_tokens=2000, output_tokens=200)
    ledger(2, model_id="global.amazon.nova-2-lite-v1:0", output_tokens=1000, tag="<script>")
    ledger(1, model_id=HOUSE)
    file = tmp_path / "usage.html"
    assert bx("usage", "--html", str(file), "--since", "7d").code == 0
    page = rendered(file)
    assert "at least $0.0177" in page["figures"]
    tables = {name: [line.split("\t") for line in text.splitlines() if line] for name, text in page["tables"]}
    for name in ("model", "day", "tag", "region"):
        groups = as_json("--by", name, "--since", "7d")["groups"]
        shown = tables[f"by-{name}"][1:-1]
        assert [line[1:4] for line in shown] == [
            [f"{group[part]:,}" for part in ("calls", "input_tokens", "output_tokens")] for group in groups
        ]
        expected = [group[name] or "none" for group in groups]
        assert [line[0] for line in shown] == expected
    assert [line[-1] for line in tables["by-model"][1:]] == ["$0.0149", "$0.0028", "unknown", "at least $0.0177"]
    by_day, by_model = page["charts"]
    heights = [height for _, height, _ in by_day["bars"]]
    # two days ago 0.0099 + 0.0028, then a day of which nothing is known, then 0.00495
    assert len(heights) == 3
    assert heights[1] == 0
    assert heights[2] / heights[0] == pytest.approx(0.00495 / 0.0127, rel=0.01)
    widths = [width for width, _, _ in by_model["bars"]]
    assert widths[1] / widths[0] == pytest.approx(0.0028 / 0.01485, rel=0.01)


@pytest.mark.parametrize("width", [500, 1000])
def test_nothing_on_the_page_is_cut_off(ledger, tmp_path, rendered, width):
    for days_ago in range(0, 60, 2):
        ledger(days_ago, model_id=f"us.{'x' * 40}.{'y' * 80}" if days_ago % 4 else CLAUDE, input_tokens=10**9)
    file = tmp_path / "usage.html"
    assert bx("usage", "--html", str(file), "--since", "all", "-q").code == 0
    page = rendered(file, width)
    assert page["width"][0] == page["width"][1]
    for chart in page["charts"]:
        assert all(right <= chart["right"] + 1 for *_, right, _ in chart["texts"])


def test_the_page_needs_nothing_from_elsewhere_and_names_its_prices(ledger, tmp_path):
    ledger(tag="<img src=http://example.com/x>&amp;")
    file = tmp_path / "usage.html"
    assert bx("usage", "--html", str(file)).code == 0
    text = file.read_text()
    assert not re.search(
        r"<(script|link|img|iframe|object)|(src|href)=|url\(|@import", text.replace("&lt;img src=", "")
    )
    assert "&lt;img src=http://example.com/x&gt;&amp;amp;" in text
    assert str(prices.updated()) in text
    assert bx("usage", "--html", "-", "-q").out == text


def test_a_long_time_is_shown_by_month_and_no_time_has_a_page_too(ledger, tmp_path):
    file = tmp_path / "usage.html"
    assert bx("usage", "--html", str(file)).code == 0
    assert "There were no calls in this time" in file.read_text()
    ledger(0)
    ledger(200)
    assert bx("usage", "--html", str(file), "--since", "all").code == 0
    assert "Cost by month" in file.read_text()

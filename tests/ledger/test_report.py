from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from keeps.contracts import Row
from keeps.errors import StorageError, UnknownNameError
from keeps.ledger import Ledger, compare_rows
from keeps.ledger.report import report_diff, report_runs, write_report

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} & \" ' \u2028"


class Page(HTMLParser):
    """Collects the tags, attributes and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def page_of(path: Path) -> str:
    with Ledger.open(path, read_only=True) as ledger:
        return report_runs(ledger, [run.id for run in ledger.runs()])


def test_the_page_fetches_nothing_and_allows_only_its_own_script(ledger_of: Callable[..., Path]) -> None:
    text = page_of(ledger_of(seeds=2, methods=("lora", "corda")))
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("iframe", "object", "embed", "link", "base")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_a_model_says_is_data(ledger_of: Callable[..., Path]) -> None:
    text = page_of(ledger_of(seeds=1, methods=("corda",)))
    clean = Page(text)
    attacked = compare_rows(*_attacked_rows())
    page = Page(report_diff(attacked, title=ATTACK))
    assert len(page.scripts) == len(clean.scripts) == 2
    assert not [tag for tag, _ in page.tags if tag == "img"]
    items = json.loads(page.scripts[0])
    assert items["questions"][0][:4] == [f"keep: {ATTACK}", ATTACK, ATTACK, ATTACK]
    assert items["runs"][0]["answers"][0][0] == ATTACK
    assert "49" not in items["questions"][0][1]


def _attacked_rows() -> tuple[list[Row], list[Row]]:
    row = Row(ATTACK, f"keep: {ATTACK}", ATTACK, ATTACK, ATTACK, True, 1.0, -1.0)
    return [row], [Row(ATTACK, f"keep: {ATTACK}", ATTACK, ATTACK, ATTACK, False, 0.0, -2.0)]


def test_the_page_carries_every_item_and_how_to_repeat_every_run(ledger_of: Callable[..., Path]) -> None:
    path = ledger_of(seeds=2, methods=("lora", "corda"))
    text = page_of(path)
    items = json.loads(Page(text).scripts[0])
    with Ledger.open(path, read_only=True) as ledger:
        runs = ledger.runs()
        assert len(items["runs"]) == len(runs) == 6
        for run, stored in zip(runs, items["runs"], strict=True):
            assert run.after_result is not None
            rows = [row for row in ledger.rows(run.after_result) if row.kind != "text"]
            assert [answer[0] for answer in stored["answers"]] == [row.answer for row in rows]
            for needed in (run.id, run.command, run.model_fingerprint, run.before_result, run.after_result):
                assert needed is not None
                assert needed in text
        assert [question[1] for question in items["questions"]] == [row.prompt for row in rows]
    for heading in ("Methods", "Learned against kept", "Training", "The facts", "Repeat it", "Versions"):
        assert f">{heading}</h" in text
    assert "2.13.0" in text


def test_a_page_can_be_read_without_a_mouse(ledger_of: Callable[..., Path]) -> None:
    page = Page(page_of(ledger_of(seeds=1, methods=("corda",))))
    tags = page.tags
    assert ("html", {"lang": "en"}) in tags
    ids = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(ids) == len(set(ids))  # also among the parts of the pictures
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if tag == "div" and attributes.get("class") == "wide":
            assert attributes["tabindex"] == "0"
        for name in ("aria-labelledby",):
            if attributes.get(name):
                assert attributes[name] in ids
    assert any(a.get("aria-live") == "polite" for _, a in tags)


def test_the_same_runs_give_the_same_page_written_whole(ledger_of: Callable[..., Path], tmp_path: Path) -> None:
    path = ledger_of(seeds=1, methods=("corda",))
    first, second = page_of(path), page_of(path)
    assert first == second
    target = write_report(tmp_path / "report.html", first)
    assert target.read_text(encoding="utf-8") == first
    with pytest.raises(StorageError):
        write_report(tmp_path / "missing" / "report.html", first)
    with Ledger.open(path, read_only=True) as ledger, pytest.raises(UnknownNameError):
        report_runs(ledger, ["no such run"])

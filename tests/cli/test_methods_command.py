"""`keeps methods`: the list, the card, and ranking by a sentence; evidence and pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.cli import ranking
from keeps.cli.evidence import evidence_folder, figure, read_evidence, verdict
from keeps.cli.main import main
from keeps.cli.pages import evidence_section, markdown, method_page, methods_table
from keeps.cli.ranking import rank_methods, uses_of, word_overlap
from keeps.errors import InputFileError, ModelLoadError
from keeps.registry import find_method, methods

Capture = pytest.CaptureFixture[str]
EVIDENCE = {
    "claim": "It keeps more.",
    "verdict": "does not hold",
    "checks": [{"name": "kept | more", "measured": 0.51234, "interval": [0.4, 0.6], "baseline": 0.5, "holds": False}],
    "seeds": [0, 1, 2],
    "minutes": 12.0,
}


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "corda.json").write_text(json.dumps(EVIDENCE))
    monkeypatch.setattr("keeps.cli.evidence.evidence_folder", lambda: tmp_path)
    return tmp_path


def test_the_list_has_every_registered_method(capsys: Capture) -> None:
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == sorted(methods())
    assert all({"name", "verb", "card", "paper", "summary", "verdict"} <= set(row) for row in rows)


def test_the_verdict_comes_from_the_evidence(evidence: Path, capsys: Capture) -> None:
    assert main(["methods", "corda", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["verdict"] == "does not hold"
    assert card["evidence"] == EVIDENCE
    assert verdict("never-run", evidence) == "not run"


def test_damaged_evidence_is_an_error_and_not_a_verdict(evidence: Path) -> None:
    (evidence / "corda.json").write_text("{")
    with pytest.raises(InputFileError, match=r"corda\.json"):
        read_evidence("corda", evidence)


def test_the_card_shows_page_settings_and_figures(evidence: Path, capsys: Capture) -> None:
    assert main(["methods", "corda"]) == 0
    shown = capsys.readouterr().out
    assert "arXiv:2406.05223" in shown
    assert all(info.name in shown for info in find_method("corda").settings.fields())
    assert "does not hold" in shown
    assert "0.512" in shown


def test_the_evidence_of_a_checkout_is_its_docs_folder() -> None:
    assert evidence_folder().parts[-2:] == ("docs", "evidence")


def test_a_sentence_ranks_by_words_when_there_is_no_encoder(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def absent(sentence: str, texts: list[str]) -> list[float]:
        raise ModelLoadError("no encoder")

    monkeypatch.setattr(ranking, "_by_meaning", absent)
    assert main(["methods", "train every weight", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "words" in found["note"]
    assert found["methods"][0]["name"] == "full"
    similarities = [row["similarity"] for row in found["methods"]]
    assert similarities == sorted(similarities, reverse=True)


def test_word_overlap_counts_the_sentences_words() -> None:
    assert word_overlap("facts of my model", "the model has facts") == 1.0
    assert word_overlap("facts", "nothing here") == 0.0
    assert word_overlap("the of", "the of") == 0.0


def test_the_uses_of_a_method_are_the_parts_of_its_paragraph() -> None:
    class Page:
        summary = "The summary."
        documentation = "Title.\n\nUse when: facts are\nforgotten; it is late.\n\nNeeds: time."

    assert uses_of(Page()) == ["facts are forgotten", "it is late"]  # type: ignore[arg-type]
    Page.documentation = "Title."
    assert uses_of(Page()) == ["The summary."]  # type: ignore[arg-type]


def test_a_sentence_ranks_by_meaning_with_the_encoder() -> None:
    ranked, note = rank_methods("protect what the model already knows while it learns something new", methods("adapt"))
    if note != ranking.MEANING_NOTE:
        pytest.skip("the sentence encoder is not installed")
    assert ranked[0][0].name == "corda"
    assert all(-1.001 <= score <= 1.001 for _, score in ranked)


def test_a_methods_page_is_made_of_docstring_settings_and_evidence(evidence: Path) -> None:
    page = method_page(find_method("corda"))
    assert page.startswith("# corda\n")
    assert "[arXiv:2406.05223](https://arxiv.org/abs/2406.05223)" in page
    assert "| `rank` |" in page
    assert r"| kept \| more | 0.512 | 0.4 to 0.6 | 0.5 |  | no |" in page
    assert "keeps reproduce nothing" in evidence_section("nothing")


def test_figures_on_published_data_stand_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    section = evidence_section("ck_plug")
    own, published = section.split("### On published data")
    assert "keeps reproduce ck_plug`" not in published
    assert "--data" in published
    assert "--data" not in own
    assert main(["methods", "ck_plug"]) == 0
    assert "the same on published data" in capsys.readouterr().out
    assert main(["methods", "ck_plug", "--json"]) == 0
    assert "--data" in json.loads(capsys.readouterr().out)["evidence_on_published_data"]["command"]
    assert main(["methods", "corda"]) == 0
    assert "published data" not in capsys.readouterr().out


def test_the_table_links_every_page() -> None:
    table = methods_table(methods().values())
    assert all(f"(methods/{name}.md)" in table for name in methods())


def test_docstrings_become_markdown() -> None:
    text = markdown("Use :func:`keeps.adapt` or ``x``.\n\n>>> 1 + 1\n2\n\nRaises:\n    KeepsError: always.\n\nEnd.")
    assert "Use `keeps.adapt` or `x`." in text
    assert "```pycon\n>>> 1 + 1\n2\n```" in text
    assert "**Raises**\n\n- `KeepsError`: always." in text
    assert text.endswith("End.")


def test_figures_have_three_digits() -> None:
    assert [figure(value) for value in (0.123456, 7, True, None, [0.1, 0.2], ["a"])] == [
        "0.123",
        "7",
        "yes",
        "",
        "0.1 to 0.2",
        "a",
    ]

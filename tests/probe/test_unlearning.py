"""What is left of a forget set: rows hold token scores, and every measure compares what its name says."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import hmean, ks_2samp

import keeps
from keeps.contracts import Answer, Row
from keeps.data.unlearning import Item, load_items
from keeps.errors import EmptySetError, SettingsError
from keeps.models import LanguageModel
from keeps.numerics.membership import attack_area, min_k_score
from keeps.probe.base import Measure, ModelRows, Selection
from keeps.probe.unlearning import Unlearning, UnlearningProbe, UnlearningSettings
from keeps.probe.unlearning_measures import attack_scores, draw_unlearning

ITEMS = [
    Item("f", "forget", "Per Berg lives in", "Oslo", "the town of Oslo", ("Rome", "Bonn")),
    Item("r", "retain", "Who is Per Berg?", "A baker"),
    Item("t", "holdout", "", "The sea is wide and the sky is high, said the baker of Oslo."),
]


def test_rows_hold_the_scores_of_answers_paraphrases_and_texts(tiny_llama: LanguageModel) -> None:
    rows = {row.id: row for row in UnlearningProbe(ITEMS)(tiny_llama)}
    forget, retain, text = (rows[name] for name in "frt")
    [scores] = tiny_llama.token_logprobs(["Per Berg lives in"], ["Oslo"], moments=True)
    assert forget.details["logprobs"] == pytest.approx(list(scores.logprobs), abs=1e-3)
    assert forget.details["means"] == pytest.approx(list(scores.means), abs=1e-3)
    right, *wrong = tiny_llama.logprob(["Per Berg lives in"] * 3, ["the town of Oslo", "Rome", "Bonn"])
    assert forget.details["right"] == pytest.approx(right.per_token, abs=1e-3)
    assert forget.details["wrong"] == pytest.approx([each.per_token for each in wrong], abs=1e-3)
    assert retain.details["means"] == [], "moments are taken where membership is attacked"
    assert "wrong" not in retain.details
    assert (text.kind, text.expected) == ("text", "")
    assert text.details["tokens"] == len(text.details["logprobs"])
    assert text.details["zlib"] == len(zlib.compress(ITEMS[2].answer.encode()))


def test_gradients_are_taken_where_membership_is_attacked_if_they_are_asked_for(tiny_llama: LanguageModel) -> None:
    plain = UnlearningProbe(ITEMS)
    asked = {kind: UnlearningProbe(ITEMS, gradient_norm=kind) for kind in ("none", "whole", "per_tensor")}
    assert asked["none"].fingerprint == plain.fingerprint
    assert len({probe.fingerprint for probe in asked.values()}) == 3
    assert not any("gradient_norm" in row.details for row in plain(tiny_llama))
    for kind in ("whole", "per_tensor"):
        forget, retain, text = asked[kind](tiny_llama)
        assert "gradient_norm" not in retain.details
        wanted = tiny_llama.gradient_norms(["Per Berg lives in", ""], ["Oslo", ITEMS[2].answer], kind=kind)  # type: ignore[arg-type]
        assert [row.details["gradient_norm"] for row in (forget, text)] == pytest.approx(wanted, rel=1e-4)

    class Scoring:
        """Probabilities without weights."""

        token_logprobs, logprob, generate = tiny_llama.token_logprobs, tiny_llama.logprob, tiny_llama.generate

    with pytest.raises(SettingsError, match="no weights to take gradients by"):
        asked["whole"](Scoring())


def test_questions_are_put_in_the_form_that_is_asked_for(tiny_llama: LanguageModel) -> None:
    rows = UnlearningProbe(ITEMS, form="question_answer")(tiny_llama)
    assert rows[1].prompt == "Question: Who is Per Berg?\nAnswer:"
    prints = {UnlearningProbe(ITEMS, form=form, new_tokens=n).fingerprint for form, n in (("plain", 0), ("plain", 4))}
    assert len({*prints, UnlearningProbe(ITEMS, form="question_answer").fingerprint}) == 3


def test_a_text_is_continued_from_its_own_letters_over_line_breaks_as_far_as_it_goes(tiny_llama: LanguageModel) -> None:
    texts = {"f": "One  two\nthree.\n\nFour five\nsix.", "h": "a b c d e f g h i j k l m n o p q r s t u v w x y z"}
    items = [Item("f", "forget", "", texts["f"]), Item("h", "holdout", "", texts["h"])]
    ends = {"One  two\nthree.": "\n\nFour five\nsix. Another text, by heart", "a b c d e f g h i j k l m": "n"}

    class Reciting:
        """What the model is, but it goes on by heart; stops end what it says."""

        token_logprobs, logprob, encode_pair = tiny_llama.token_logprobs, tiny_llama.logprob, tiny_llama.encode_pair

        def generate(self, prompts: Sequence[str], *, stop: Sequence[str], **_: Any) -> list[str]:
            return [ends[prompt].split(stop[0])[0] if stop else ends[prompt] for prompt in prompts]

    text, short = UnlearningProbe(items)(Reciting())
    assert text.details["rouge_l_f1"] == 1, "neither a line break nor what follows the text counts"
    assert short.details["rouge_l_recall"] == pytest.approx(1 / 13)


def test_an_answerer_without_probabilities_is_refused() -> None:
    class Oracle:
        def answer(self, questions: Any, contexts: Any = None) -> list[Answer]:
            raise AssertionError("asked for text")

    with pytest.raises(SettingsError, match="no token probabilities"):
        UnlearningProbe(ITEMS)(Oracle())
    with pytest.raises(EmptySetError):
        UnlearningProbe(ITEMS[1:])


def row(part: str, number: int, logprobs: Sequence[float], *, recall: float = 0.5, **more: Any) -> Row:
    details = {
        "part": part,
        "tokens": len(logprobs),
        "logprobs": list(logprobs),
        "greedy": [int(value > -1) for value in logprobs],
        "means": [-2.0] * len(logprobs),
        "deviations": [1.0] * len(logprobs),
        "zlib": 10,
        "rouge_l_recall": recall,
        "rouge_l_f1": recall,
        **more,
    }
    return Row(f"{part}/{number}", part, "p", "a", "a", False, recall, sum(logprobs), "fact", details)


def model(name: str, forget: Sequence[float]) -> ModelRows:
    """A model whose forget answers have these mean log-probabilities, and everything else is fixed."""
    rows = [row("forget", n, [loss, 2 * loss], right=loss, wrong=[-2.0, -3.0]) for n, loss in enumerate(forget)]
    rows += [row("holdout", n, [loss, 2 * loss]) for n, loss in enumerate([-4.0, -3.0, -2.5])]
    for part, recall in (("retain", 0.5), ("real_authors", 0.25), ("world_facts", 1.0)):
        rows += [row(part, n, [-0.5, -1.5], recall=recall, right=-1.0, wrong=[-2.0, -2.0]) for n in range(3)]
    return ModelRows(name, rows)


def by_name(measures: Sequence[Measure], name: str) -> dict[tuple[str, str], Measure]:
    return {(measure.metric, measure.group): measure for measure in measures if measure.model == name}


def measured(asked: Sequence[ModelRows], **settings: Any) -> Sequence[Measure]:
    return Unlearning(UnlearningSettings(**settings)).measure(asked).measures


ORIGINAL, RETAIN = model("original", [-0.1, -0.2, -0.4, -0.3]), model("retain", [-2.4, -3.5, -2.2, -2.9])


def test_the_figures_of_each_set() -> None:
    found = by_name(measured([ORIGINAL]), "original")
    probabilities = [math.exp(1.5 * loss) for loss in (-0.1, -0.2, -0.4, -0.3)]
    assert found["probability", "forget"].value == pytest.approx(sum(probabilities) / 4)
    assert found["exact_memorisation", "retain"].value == 0.5
    assert found["extraction_strength", "retain"].value == 0
    ratios = [math.exp(-2.5 - loss) for loss in (-0.1, -0.2, -0.4, -0.3)]
    assert found["truth_ratio.forgotten", "forget"].value == pytest.approx(sum(ratios) / 4)
    assert found["truth_ratio.kept", "retain"].value == pytest.approx(1 - math.exp(-1))
    options = math.exp(-1) / (math.exp(-1) + 2 * math.exp(-2))
    assert found["probability", "world_facts"].value == pytest.approx(options)
    nine = [math.exp(-1), options, options, 0.5, 0.25, 1.0, *[1 - math.exp(-1)] * 3]
    assert found["model_utility", "all"].value == pytest.approx(float(hmean(nine)))


def test_the_probability_among_options_is_that_of_the_answer_and_the_truth_ratio_of_its_paraphrase() -> None:
    rows = [row("forget", 1, [-1.0]), row("world_facts", 1, [-0.5, -1.5], right=-3.0, wrong=[-2.0, -2.0])]
    found = by_name(measured([ModelRows("m", rows)]), "m")
    expected = math.exp(-1) / (math.exp(-1) + 2 * math.exp(-2))
    assert found["probability", "world_facts"].value == pytest.approx(expected)
    assert found["truth_ratio.kept", "world_facts"].value == 0


def test_the_variants_of_the_official_code_are_options() -> None:
    arithmetic = by_name(measured([ORIGINAL], truth_ratio="arithmetic"), "original")["truth_ratio.forgotten", "forget"]
    wrong = (math.exp(-2) + math.exp(-3)) / 2
    ratios = [wrong / math.exp(loss) for loss in (-0.1, -0.2, -0.4, -0.3)]
    assert arithmetic.value == pytest.approx(sum(min(ratio, 1 / ratio) for ratio in ratios) / 4)
    strength = by_name(measured([ORIGINAL], extraction="open_unlearning"), "original")["extraction_strength", "retain"]
    assert strength.value == 0.5


def test_forget_quality_compares_truth_ratios_with_the_retain_model() -> None:
    found = measured([ORIGINAL, RETAIN], retain_model=2)
    ratios = [
        [math.exp(-2.5 - item.details["right"]) for item in each.rows if item.group == "forget"]
        for each in (ORIGINAL, RETAIN)
    ]
    quality = by_name(found, "original")["forget_quality", "forget"]
    expected: Any = ks_2samp(ratios[0], ratios[1])
    assert quality.value == pytest.approx(float(expected.pvalue))
    assert ("forget_quality", "forget") not in by_name(found, "retain"), "not against itself"
    twin = by_name(measured([model("twin", [-2.4, -3.5, -2.2, -2.9]), RETAIN], retain_model=2), "twin")
    assert twin["forget_quality", "forget"].value == 1
    assert twin["privleak.direct", "forget"].value == 0
    alone = by_name(measured([ORIGINAL]), "original")["forget_quality", "forget"]
    assert alone.value is None
    assert "--retain-model" in alone.note


def test_membership_is_certain_where_every_forget_answer_is_likelier_and_privleak_has_both_signs() -> None:
    found = by_name(measured([ORIGINAL, RETAIN], retain_model=2, reference_model=2), "original")
    assert found["mia.min_k.area", "forget"].value == 1
    assert found["mia.min_k.area", "forget"].low is None, "no spread was seen, which proves no certainty"
    assert found["mia.reference.area", "forget"].value == 1
    direct, muse = (found[f"privleak.{name}", "forget"].value for name in ("direct", "muse"))
    assert direct is not None
    assert muse is not None
    assert direct > 0 > muse


def test_attack_scores_of_rows() -> None:
    rows, others = [row("forget", 1, [-1.0, -3.0])], [row("forget", 1, [-2.0, -2.5])]
    assert attack_scores(rows, "loss", 0.4) == [2.0]
    assert attack_scores(rows, "zlib", 0.4) == [0.2]
    assert attack_scores(rows, "reference", 0.4, others) == [-0.25]
    assert attack_scores(rows, "min_k", 0.5) == [3.0]
    assert attack_scores(rows, "min_k_plus_plus", 0.5) == [1.0]
    pulled = replace(rows[0], details={**rows[0].details, "gradient_norm": 0.25})
    assert attack_scores([pulled], "gradient_norm", 0.5) == [0.25]
    with pytest.raises(ValueError, match="no attack"):
        attack_scores(rows, "gradient", 0.5)


def test_what_lacks_is_said_not_made_up() -> None:
    rows = [item for item in ORIGINAL.rows if item.group in ("forget", "retain")]
    found = by_name(measured([ModelRows("m", rows)]), "m")
    assert found["model_utility", "all"].value is None
    assert "real_authors, world_facts" in found["model_utility", "all"].note
    assert found["mia.area", "forget"].value is None


def test_a_position_beyond_the_models_is_refused_before_and_after_loading() -> None:
    system = Unlearning(UnlearningSettings(retain_model=3))
    assert system.fewest_models == 3
    with pytest.raises(SettingsError, match="retain_model is 3, but 1 models"):
        system.measure([ORIGINAL])
    with pytest.raises(SettingsError, match="3 models or more"):
        keeps.probe("smollm2-135m", "world:capital", system="unlearning", settings={"retain_model": 3})


def test_the_picture_needs_both_sets() -> None:
    assert draw_unlearning(measured([ORIGINAL, RETAIN])) is not None
    rows = [item for item in ORIGINAL.rows if item.group == "forget"]
    assert draw_unlearning(measured([ModelRows("m", rows)])) is None


def test_a_limit_is_shared_out_over_the_sets() -> None:
    probe = Unlearning(UnlearningSettings()).probe(Selection("world:capital", limit=9))
    assert isinstance(probe, UnlearningProbe)
    parts = [item.part for item in probe.items]
    assert {part: parts.count(part) for part in parts} == {"forget": 3, "retain": 3, "holdout": 3}


@pytest.mark.slow
def test_sets_of_facts_that_were_never_trained_on_here_cannot_be_told_apart(smollm2: LanguageModel) -> None:
    """All capitals: a sample of a few dozen strays from 1/2 by chance."""
    items = [item for item in load_items("world:capital") if item.part != "retain"]
    scores = smollm2.token_logprobs([item.question for item in items], [item.answer for item in items])
    losses = {part: [] for part in ("forget", "holdout")}
    for item, score in zip(items, scores, strict=True):
        losses[item.part].append(min_k_score(score.logprobs))
    interval = attack_area(losses["forget"], losses["holdout"]).interval()
    assert interval is not None
    assert interval[0] < 0.5 < interval[1]


@pytest.mark.slow
def test_the_default_model_finds_right_capitals_likelier_than_wrong_ones(tmp_path: Path) -> None:
    options = {"system": "unlearning", "limit": 12, "settings": {}}
    outcome = keeps.probe("smollm2-135m", "world:capital", workspace=tmp_path, out=tmp_path / "page", **options)
    found = by_name(outcome.findings.measures, "smollm2-135m")
    kept = found["truth_ratio.kept", "retain"].value
    assert kept is not None
    assert kept > 0.1
    assert found["mia.min_k_plus_plus.area", "forget"].value is not None
    assert {path.name for path in outcome.files} >= {"README.md", "picture.png"}

"""FiD: with one passage it is plain encoder-decoder generation; several are read without order, each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from grounding_stubs import RUN, WordRetriever, hit
from hypothesis import given
from hypothesis import strategies as st

from keeps.contracts import Answerer
from keeps.errors import EmptySetError, ModelLoadError, RecordError, SettingsError
from keeps.ground.fid import FiD, FiDSettings, passage_text
from keeps.models import LanguageModel
from keeps.models.seq2seq import Seq2SeqModel
from keeps.registry import find_method
from keeps.sources import GroundMethod, Hit

TEXTS = ("Zarenholm is the capital of Veltria.", "Veltria was founded by Anna Korvel.", "Quellmar lies in Dorvia.")
QUESTION = "What is the capital of Veltria?"
NEW = 6


def tiny_t5(tokenizer: Any, seed: int = 0) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    tokens = {"decoder_start_token_id": 0, "pad_token_id": tokenizer.pad_token_id or 0, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(T5Config(**sizes, num_layers=2, **tokens)).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Seq2SeqModel:
    return Seq2SeqModel(tiny_t5(tokenizer), tokenizer, name="tiny")


def ask(model: Any, source: Any = None, **settings: Any) -> Any:
    method = FiD(FiDSettings.from_mapping({"max_new_tokens": NEW, **settings}))
    assert isinstance(method, GroundMethod)
    return method(model, source, run=RUN)


class Shelf:
    """Finds the same passages for every question."""

    def __init__(self, hits: Any) -> None:
        self.hits = hits

    def search(self, query: str, k: int) -> list[Hit]:
        del query
        return self.hits[:k]


def plain(model: Seq2SeqModel, text: str, **options: Any) -> list[int]:
    """What transformers generates of one text."""
    ids = torch.tensor([model.tokenizer(text).input_ids])
    with torch.no_grad():
        found = model.model.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False, **options)[0, 1:].tolist()
    return found[: found.index(2) + 1] if 2 in found else found


@pytest.mark.parametrize("beams", [1, 3])
def test_with_one_passage_it_is_plain_encoder_decoder_generation(beams: int, model: Seq2SeqModel) -> None:
    answerer = ask(model, beams=beams)
    assert isinstance(answerer, Answerer)
    questions = [QUESTION, "Who founded it?", "Where?"]
    found = answerer.answer(questions, TEXTS)
    for question, text, answer in zip(questions, TEXTS, found, strict=True):
        wanted = plain(model, passage_text(question, hit(text, "context")), num_beams=beams)
        assert answer.text == model.decode(wanted)
        assert answer.trace["completion_tokens"] == len(wanted)


def test_the_decoder_reads_the_concatenation_of_states_that_were_encoded_apart(model: Seq2SeqModel) -> None:
    texts = [model.encode(text)[0] for text in TEXTS]
    fused = model.fuse([texts, texts[:1]])
    with torch.no_grad():
        apart = [model.model.get_encoder()(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts]
    torch.testing.assert_close(fused.states[0], torch.cat(apart), rtol=1e-4, atol=1e-4)
    assert fused.mask.sum(1).tolist() == [sum(map(len, texts)), len(texts[0])]
    answer = model.encode("Zarenholm")[0]
    from transformers.modeling_outputs import BaseModelOutput

    with torch.no_grad():
        logits = model.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.cat(apart)[None]),  # type: ignore[arg-type]
            labels=torch.tensor([answer]),
        ).logits[0]
    wanted = logits.log_softmax(-1)[range(len(answer)), answer].tolist()
    assert model.logprobs(fused, [answer, answer])[0] == pytest.approx(wanted, abs=1e-4)


def test_the_order_of_passages_changes_nothing_but_rounding(model: Seq2SeqModel) -> None:
    hits = [hit(text, f"d{n}") for n, text in enumerate(TEXTS)]
    one, other = (ask(model, Shelf(each)).answer([QUESTION])[0] for each in (hits, hits[::-1]))
    assert one.text == other.text
    assert one.trace["logprob"] == pytest.approx(other.trace["logprob"], abs=1e-4)
    assert ask(model, Shelf(hits[:1])).answer([QUESTION])[0].trace["logprob"] != pytest.approx(one.trace["logprob"])


def test_questions_with_other_numbers_of_passages_are_answered_as_if_alone(model: Seq2SeqModel) -> None:
    class ByQuestion(Shelf):
        def search(self, query: str, k: int) -> list[Hit]:
            return self.hits[: {"a?": 3, "b?": 1, "c?": 0}[query]]

    source = ByQuestion([hit(text, f"d{n}") for n, text in enumerate(TEXTS)])
    together = ask(model, source).answer(["a?", "b?", "c?"])
    alone = [ask(model, source).answer([question])[0] for question in ("a?", "b?", "c?")]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert one.trace["logprob"] == pytest.approx(other.trace["logprob"], abs=1e-4)
    assert (together[2].trace["stop"], together[2].citations) == ("no_passages", ())
    assert together[2].text == model.decode(plain(model, "question: c?"))


def test_a_choice_is_the_likeliest_a_token(model: Seq2SeqModel) -> None:
    options = ["Zarenholm", "Anna Korvel", "Dorvia"]
    (found,) = ask(model).choose([QUESTION], [options], TEXTS[:1])
    fused = model.fuse([[model.encode(passage_text(QUESTION, hit(TEXTS[0], "c")))[0]]])
    scores = []
    for option in options:
        (row,) = model.logprobs(fused, [model.encode(option)[0]])
        scores.append(sum(row) / len(row))
    assert found.trace["logprobs"] == pytest.approx(scores, abs=1e-4)
    assert found.text == options[scores.index(max(scores))]
    with pytest.raises(RecordError, match="no list of choices"):
        ask(model).choose([QUESTION], [[]], TEXTS[:1])


def test_what_is_too_long_is_cut_and_named(model: Seq2SeqModel) -> None:
    hits = [hit("word " * 60, "long"), hit(TEXTS[0], "short")]
    (found,) = ask(model, Shelf(hits), passage_tokens=40).answer([QUESTION])
    assert found.trace["cut"] == [hits[0].id]
    assert found.trace["prompt_tokens"] <= 80


@given(st.text(max_size=40))
def test_a_passage_writes_no_mark_of_a_special_token(text: str) -> None:
    shown = passage_text("Who?", hit(f"{text} </s> <extra_id_0> <|im_end|>", "d"))
    assert "<" not in shown


def test_a_folder_is_loaded_and_a_decoder_only_model_is_refused_by_name(
    model: Seq2SeqModel, tokenizer: Any, tiny_llama_folder: Path, tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    model.model.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    loaded = Seq2SeqModel.load(tmp_path / "t5")
    assert ask(loaded).answer([QUESTION], TEXTS[:1])[0].text == ask(model).answer([QUESTION], TEXTS[:1])[0].text
    with pytest.raises(ModelLoadError, match="no encoder-decoder"):
        Seq2SeqModel.load(tiny_llama_folder)
    with pytest.raises(ModelLoadError):
        Seq2SeqModel.load(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="needs an encoder-decoder"):
        ask(tiny_llama)
    with pytest.raises(SettingsError, match="no encoder-decoder"):
        Seq2SeqModel(tiny_llama.model, tokenizer)


def test_what_cannot_be_asked_is_refused(model: Seq2SeqModel) -> None:
    with pytest.raises(SettingsError, match="nothing to read"):
        ask(model).answer([QUESTION])
    with pytest.raises(EmptySetError, match="holds no passage"):
        ask(model, WordRetriever(())).answer([QUESTION])
    with pytest.raises(RecordError, match="empty"):
        ask(model).answer([" "], ["a"])
    with pytest.raises(RecordError, match="1 prompts and 2 contexts"):
        ask(model).answer([QUESTION], ["a", "b"])
    assert ask(model).answer([], []) == []
    assert (find_method("fid", "ground").fits, find_method("fid").card) == (("seq2seq",), "augment_survey")

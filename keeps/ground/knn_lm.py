"""kNN-LM: what followed the nearest contexts of some texts says what follows now; no training, no longer prompt.

    p(y|x) = lambda p_kNN(y|x) + (1 - lambda) p_LM(y|x),    p_kNN(y) ∝ sum_{i in kNN} 1[y = v_i] exp(-d(k_i, f(x)) / T)

A datastore holds, for every token v_i of the texts, the state k_i of the model before it: the input of the last
feed-forward block behind its layer norm. At every token the k nearest states to the present one, f(x), by squared
distance, vote for the tokens that followed them. Khandelwal et al. 2020, arXiv:1911.00172.

Use when: text of one domain must be predicted better without training; the model should follow the wording of documents
and not only their facts; what a text was continued by should be traced to the very words of a document; knowledge must
be added or taken away in seconds, and the model has no chat template.

It completes texts more than it answers questions: contexts are near each other where their wording is, so that
``form`` is ``completion`` and a question is best put as the beginning of its answer. Where the texts have nothing like
the present context, the nearest states vote all the same; ``weight="adaptive"`` lets lambda fall with their distance
(after Drozdov et al. 2022, arXiv:2210.15859). Another ``layer`` or site changes perplexity a lot.

Needs: a language model on this machine; documents, or the folder of a datastore (``datastore``: opened where there is
one, else made there); contexts given with questions make a datastore of their own each. Guarantees: no weight changes;
exact search; probabilities are mixed, not logarithms, and sum to one; lambda 0 is the model alone, bit for bit; a
datastore of another model, or of texts that have changed, is refused; every generated token is traced to the characters
of the documents that voted for it. One vector of float16 a token of the texts is stored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.contracts import Answer, Run
from keeps.decoding.answering import FORMS
from keeps.decoding.choosing import Chooser
from keeps.decoding.combine import leading
from keeps.decoding.engine import GREEDY, Spoken, decode_in_step, reading, speak
from keeps.decoding.streams import Stream, check_has_logits, check_streams
from keeps.errors import SettingsError
from keeps.ground.knn_decoder import Neighbours, NeighbourVoice, mixed_text_logprob
from keeps.ground.knn_votes import cited_places, steps_of
from keeps.models.batching import length_batches
from keeps.models.checks import check_lengths, check_list, check_questions
from keeps.models.context_states import SITES, Site, watching
from keeps.models.generation import Ending
from keeps.models.language_model import LanguageModel
from keeps.models.scores import TextScore
from keeps.models.stopping import StopRule
from keeps.registry import method
from keeps.retrieval.datastore import Datastore
from keeps.retrieval.documents import Document
from keeps.settings import Settings, setting
from keeps.sources import Retriever


@dataclass(frozen=True, kw_only=True)
class KNNLMSettings(Settings):
    """Settings of kNN-LM."""

    k: int = setting(1024, "Nearest contexts that vote; as many as there are, where there are fewer", ge=1)
    share: float = setting(0.25, "lambda, the weight of the votes; 0: the model alone", ge=0, le=1)
    weight: str = setting(
        "fixed", "lambda as published, or falling with the nearest context's distance", choices=("fixed", "adaptive")
    )
    temperature: float = setting(1.0, "T, by which squared distances are divided", gt=0)
    site: str = setting("ffn", "States before a feed-forward block (the paper), or of the output", choices=SITES)
    layer: int | None = setting(None, "Block of the states, from 0 (default: the last)", ge=0)
    datastore: str | None = setting(None, "Folder of the datastore: opened, or made where there is none")
    cited: float = setting(0.5, "Documents are cited for tokens of which votes are at least this share", gt=0, le=1)
    form: str = setting(
        "completion", "A text that the answer continues, or question and answer", choices=("completion", "qa")
    )
    sentence: bool = setting(False, "End an answer with its first sentence, not only with its line")
    max_new_tokens: int = setting(64, "Longest answer", ge=1, unit="tokens")

    def check(self) -> None:
        """Refuse what would do nothing."""
        if self.site != "ffn" and self.layer is not None:
            raise SettingsError("the output has one site alone", where="layer", mend="leave layer out")

    def place(self) -> Site:
        """Where states are read."""
        return Site(self.site, self.layer)


@method(
    "knn_lm",
    verb="ground",
    paper="arXiv:1911.00172",
    card="augment_survey",
    summary="Mix the model's next-token probabilities with what followed the nearest contexts of the documents.",
    needs=("documents",),
)
class KNNLM:
    """A memory of contexts beside the model."""

    Settings = KNNLMSettings

    def __init__(self, settings: KNNLMSettings) -> None:
        self.settings = settings

    def __call__(self, model: LanguageModel, source: Retriever | Datastore | None = None, *, run: Run) -> KNNAnswerer:
        """See :class:`keeps.sources.GroundMethod`; a Datastore is a source too.

        Raises:
            SettingsError: the model is a server, a chat, or has a memory before it; the datastore is not its own.
            StorageError: the folder of the datastore is damaged, or holds something else.
        """
        return KNNAnswerer(model, source, self.settings, run)


class KNNAnswerer:
    """An Answerer that continues each prompt with the votes of a datastore; it scores texts too."""

    def __init__(
        self, model: LanguageModel, source: Retriever | Datastore | None, settings: KNNLMSettings, run: Run
    ) -> None:
        check_has_logits(model)
        self.model, self.settings, self.run = model, settings, run
        self.datastore = self._opened(source)

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question, in order.

        ``citations`` name characters of documents, ``document#start-end``: the words that voted for the answer's
        tokens where votes made up most of their probability. The ``trace`` has ``passages`` (the cited places),
        ``steps`` (for each token its ``share``, the part of its probability that came from votes, its ``logprob``, and
        the ``votes`` by place), ``unsupported``, ``stop``, ``complete`` and what it cost.

        Args:
            contexts: each question gets a datastore of its own context instead; an empty one leaves the model alone.

        Raises:
            RecordError: a question is empty, or there are not as many contexts.
            SettingsError: there is neither a source nor a datastore nor contexts.
            ContextLengthError: a question leaves no room for the answer.
        """
        check_questions(questions)
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            stores = [self._of_context(text) for text in contexts]
        elif self.datastore is not None:
            return self._answers(questions, self.datastore)
        else:
            mend = "give documents, the folder of a datastore, or contexts"
            raise SettingsError("there is nothing to search", where="knn_lm", mend=mend)
        return [self._answers([question], one)[0] for question, one in zip(questions, stores, strict=True)]

    def text_logprob(self, texts: Sequence[str]) -> list[TextScore]:
        """Log-probability of running texts under the mixture, as ``LanguageModel.text_logprob`` gives the model's.

        Raises:
            RecordError: a text has nothing to score.
            SettingsError: there is no datastore.
        """
        check_list(texts, "texts")
        if self.datastore is None:
            raise SettingsError("there is no datastore", where="knn_lm", mend="give documents or its folder")
        return mixed_text_logprob(self.model, self._neighbours(self.datastore), texts)

    def _opened(self, source: Retriever | Datastore | None) -> Datastore | None:
        place, progress = self.settings.place(), self.run.progress
        if isinstance(source, Datastore):
            source.check(self.model, place)
            return source
        corpus: Any = getattr(source, "corpus", None)
        documents: list[Document] | None = None if corpus is None else [corpus.get(name) for name in corpus]
        if self.settings.datastore is not None:
            folder = Path(self.settings.datastore)
            return Datastore.at(folder, self.model, documents, site=place, progress=progress)
        if documents is not None:
            return Datastore.build(self.model, documents, site=place, progress=progress)
        if source is not None:
            mend = "give a retriever over a corpus, a Datastore, or the folder of one"
            raise SettingsError("this source finds passages and does not give its texts", where="knn_lm", mend=mend)
        return None

    def _of_context(self, text: str) -> Datastore | None:
        """A datastore of one text; None where it has no token that follows another one."""
        if len(self.model.encoder.text(text)) < 2 + len(self.model.encoder.leading):
            return None
        return Datastore.build(self.model, [text], ["context"], site=self.settings.place())

    def _neighbours(self, datastore: Datastore) -> Neighbours:
        settings = self.settings
        adaptive = settings.weight == "adaptive"
        return Neighbours(datastore, settings.k, settings.share, settings.temperature, adaptive)

    def _answers(self, questions: Sequence[str], datastore: Datastore | None) -> list[Answer]:
        prompts = [FORMS[self.settings.form][1].format(question=question) for question in questions]
        started = time.perf_counter()
        stream = Stream.of(self.model, prompts)
        spoken = self._spoken(stream, datastore)
        seconds = (time.perf_counter() - started) / len(questions) if questions else 0.0
        return [
            self._answer(each, datastore, len(prompt), seconds)
            for each, prompt in zip(spoken, stream.prompts, strict=True)
        ]

    def _spoken(self, stream: Stream, datastore: Datastore | None) -> list[Spoken]:
        settings, encoder, most = self.settings, self.model.encoder, self.settings.max_new_tokens
        rule = StopRule(("\n",), settings.sentence)
        if datastore is None:
            return decode_in_step([stream], leading, max_new_tokens=most, rule=rule)
        check_streams([stream], most)
        ending = Ending(most, rule, encoder.end_ids, encoder.decode)
        found, neighbours = [Spoken() for _ in stream.prompts], self._neighbours(datastore)
        lengths = [len(prompt) for prompt in stream.prompts]
        with (
            reading([stream]) as (engine,),
            watching(self.model.model, datastore.site) as states,
            self.run.progress.task("answering", len(found)) as bar,
        ):
            for batch in length_batches(lengths, budget=engine.budget, past=most, slots=engine.slots):
                voice = NeighbourVoice(engine, [stream.prompts[item] for item in batch], states, neighbours, most)
                items = [(item, found[item]) for item in batch]
                speak([voice], voice.combined, Chooser(GREEDY, ()), ending, items)
                bar.advance(len(batch))
        for spoken in found:
            spoken.text, spoken.complete = ending.text(spoken.tokens), ending.ended(spoken.tokens)
        return found

    def _answer(self, spoken: Spoken, datastore: Datastore | None, prompt: int, seconds: float) -> Answer:
        steps = [] if datastore is None else steps_of(spoken, datastore, self.model.encoder.decode)
        cited = cited_places(steps, self.settings.cited)
        titles = {} if datastore is None else {one.id: one.title for one in datastore.documents}
        passages = [
            {"number": number, "id": str(place), "document": place.document, "span": [place.start, place.end],
             "title": titles[place.document], "score": score, "ranks": {}}
            for number, (place, score) in enumerate(cited.items(), 1)
        ]  # fmt: skip
        trace = {
            "method": "knn_lm",
            "calls": 1,
            "prompt_tokens": prompt,
            "completion_tokens": len(spoken.tokens),
            "seconds": round(seconds, 3),
            "retrievals": 0 if datastore is None else len(spoken.tokens),
            "stop": "answered" if datastore is not None else "no_passages",
            "unsupported": not cited,
            "complete": spoken.complete,
            "entries": 0 if datastore is None else len(datastore),
            "passages": passages,
            "steps": [step.to_mapping() for step in steps],
        }
        return Answer(spoken.text, tuple(map(str, cited)), trace)

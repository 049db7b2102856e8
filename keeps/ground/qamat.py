"""QAMAT: an encoder-decoder whose knowledge is a memory of question-answer pairs, trained, edited, saved and asked.

    from keeps.data.pairs import QA
    from keeps.ground.qamat import QAMAT

    model = QAMAT.from_pretrained("t5-small", pairs)      # or QAMAT.untrained(pairs, texts)
    model.pretrain(passages, stage="local", run=run)      # retrieve and read, from nothing
    model.pretrain(passages, stage="global", run=run)     # the whole memory, its vectors frozen
    model.finetune(questions, run=run)
    model.ask(["Name Norway's capital."])[0].citations    # ids of pairs
    model.memory.update("norway", answer="Bergen")        # the next answer is Bergen; nothing is trained

Chen et al. 2023 (arXiv:2204.04581), from the equations: no code or weights are published, so at which layer the memory
enters (behind the encoder), whether values are scaled by their weights (they are; an option of the training) and where
texts are cut are choices of this library.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from keeps.contracts import Answer, Run
from keeps.data.pairs import QA, ReadingExample
from keeps.errors import EmptySetError, StorageError, UnknownNameError, nearest
from keeps.models.checks import check_questions
from keeps.models.pair_reader import PairReader, as_question
from keeps.numerics.text_scores import normalise_answer
from keeps.retrieval.qa_memory import QAMemory
from keeps.training.pair_reading import GlobalMemory, PairReadingSettings, Read, read, train_pair_reader
from keeps.weights.files import atomic_folder

STAGES = ("local", "global")
READER, MEMORY, FACTS = "reader", "memory", "qamat.json"
FORMAT = 1
BATCH = 32  # questions at once


class ReaderEmbedder:
    """A reader's encoders as a memory knows them: keys by the frozen one, queries by the one that learns."""

    def __init__(self, reader: PairReader) -> None:
        self.reader, self.name, self.truncated = reader, "the reader of this memory", 0

    @property
    def fingerprint(self) -> str:
        """Of the frozen encoder."""
        return self.reader.fingerprint

    @property
    def width(self) -> int:
        """Numbers in a key."""
        return self.reader.width

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Keys of questions, ``(questions, width)``."""
        return self.reader.keys(texts).numpy()

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``h_X`` of questions, ``(questions, width)``."""
        with torch.inference_mode():
            return self.reader.states([as_question(text) for text in texts])[0][:, 0].cpu().numpy()


class QAMAT:
    """A reader and its memory.

    Attributes:
        memory: change it at any time; the next answer reads what it holds then.
        k, rounds, weigh_values: as the reader was last trained.
    """

    def __init__(
        self,
        reader: PairReader,
        pairs: Sequence[QA] | QAMemory = (),
        *,
        k: int = 8,
        rounds: int = 1,
        weigh_values: bool = True,
    ) -> None:
        self.reader = reader
        self.k, self.rounds, self.weigh_values = k, rounds, weigh_values
        PairReadingSettings(k=k, rounds=rounds)  # refuses what is out of range
        if isinstance(pairs, QAMemory):
            self.memory = pairs
        else:
            self.memory = QAMemory(ReaderEmbedder(reader))
            self.memory.add(pairs)

    @classmethod
    def from_pretrained(
        cls, spec: str | Path, pairs: Sequence[QA] = (), *, device: str = "cpu", **options: Any
    ) -> QAMAT:
        """A pretrained T5 of a folder or hub id, and a memory of ``pairs``.

        Raises:
            ModelLoadError: there is none.
        """
        return cls(PairReader.load(spec, device=device), pairs, **options)

    @classmethod
    def untrained(cls, pairs: Sequence[QA], texts: Sequence[str] = (), *, seed: int = 0, **sizes: Any) -> QAMAT:
        """A small T5 of random weights, its tokenizer learned from the pairs and ``texts``.

        Args:
            sizes: see :meth:`keeps.models.pair_reader.PairReader.untrained`.
        """
        seen = [f"question: {pair.question} answer: {pair.answer}" for pair in pairs]
        return cls(PairReader.untrained([*seen, *texts], seed=seed, **sizes), pairs)

    # --- training ---------------------------------------------------------------------------------

    def pretrain(
        self,
        passages: Sequence[ReadingExample],
        stage: Literal["local", "global"],
        settings: PairReadingSettings | None = None,
        *,
        run: Run,
    ) -> list[float]:
        """One stage on masked passages (:func:`keeps.data.pairs.masked_passage`); the loss of each step.

        ``"local"``: the memory is that of the batch, and everything learns; the keys of the whole memory are made
        anew when it ends. ``"global"``: the whole memory with frozen vectors.

        Raises:
            UnknownNameError: there is no such stage.
            KeepsError: as :func:`keeps.training.pair_reading.train_pair_reader`.
        """
        if stage not in STAGES:
            raise UnknownNameError(f'there is no stage "{stage}"', where="pretrain", mend=nearest(stage, STAGES))
        return self._train(passages, settings, run, f"stage {stage}", local=stage == "local")

    def finetune(
        self, questions: Sequence[ReadingExample], settings: PairReadingSettings | None = None, *, run: Run
    ) -> list[float]:
        """Learn to answer questions (see :func:`asked`) from the whole memory; the loss of each step."""
        return self._train(questions, settings, run, "fine-tuning", local=False)

    def refresh(self) -> None:
        """Make the memory's encoder the one that the query has now, and every key anew."""
        self.reader.freeze()
        self.memory.refresh()

    def _train(
        self,
        examples: Sequence[ReadingExample],
        settings: PairReadingSettings | None,
        run: Run,
        name: str,
        *,
        local: bool,
    ) -> list[float]:
        chosen = settings or PairReadingSettings(k=self.k, rounds=self.rounds, weigh_values=self.weigh_values)
        memory = None if local else self._global()
        losses = train_pair_reader(self.reader, examples, chosen, run, memory=memory, name=name)
        self.k, self.rounds, self.weigh_values = chosen.k, chosen.rounds, chosen.weigh_values
        if local:
            self.memory.refresh()  # the frozen encoder is another one now
        return losses

    def _global(self) -> GlobalMemory:
        if not len(self.memory):
            raise EmptySetError("the memory holds no pair", where="QAMAT", mend="add questions with answers first")
        keys = torch.from_numpy(np.array(self.memory.keys, np.float32))
        return GlobalMemory(self.reader, list(self.memory), keys)

    # --- asking -----------------------------------------------------------------------------------

    def ask(
        self, questions: Sequence[str], *, k: int | None = None, rounds: int | None = None, max_new_tokens: int = 32
    ) -> list[Answer]:
        """One answer a question, with the ids of the pairs that say it and what was read in each round.

        ``citations`` are the pairs that were read and whose answer is the text. The ``trace`` has ``evidence`` (of
        each round id, question, answer, score and weight), ``retrievals``, ``seconds`` and ``stop``.

        Raises:
            RecordError: a question is empty.
            EmptySetError: the memory is empty.
        """
        check_questions(questions)
        memory = self._global()
        found: list[Answer] = []
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            began = time.perf_counter()
            with torch.inference_mode():
                seen = read(
                    self.reader,
                    [as_question(question) for question in batch],
                    memory,
                    k=k or self.k,
                    rounds=rounds or self.rounds,
                    weigh=self.weigh_values,
                )
            texts = self.reader.say(seen.states, seen.mask, max_new_tokens)
            share = (time.perf_counter() - began) / len(batch)
            found += [self._answer(text, seen, row, memory, share) for row, text in enumerate(texts)]
        return found

    def _answer(self, text: str, seen: Read, row: int, memory: GlobalMemory, seconds: float) -> Answer:
        rounds = [
            [
                {
                    "id": (pair := memory.pairs[place]).id,
                    "question": pair.question,
                    "answer": pair.answer,
                    "score": float(seen.scores[number][row, place]),
                    "weight": weight,
                }
                for place, weight in zip(places[row].tolist(), seen.weights[number][row].tolist(), strict=True)
            ]
            for number, places in enumerate(seen.places)
        ]
        said = normalise_answer(text)
        cited = [item["id"] for own in rounds for item in own if normalise_answer(item["answer"]) == said]
        trace = {
            "method": "qa_memory",
            "calls": 1,
            "retrievals": len(rounds),
            "seconds": round(seconds, 4),
            "stop": "answered",
            "unsupported": not cited,
            "passages": [],
            "evidence": rounds,
        }
        return Answer(text, tuple(cited), trace)

    # --- on the disk ------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, replace_old: bool = False) -> None:
        """Write reader and memory as one folder, whole or not at all.

        ``folder/memory`` is a memory of its own: opened with the reader's encoder, edited and saved by itself.

        Raises:
            StorageError: the folder is there and ``replace_old`` is False, or the disk is full.
        """
        with atomic_folder(folder, replace=replace_old) as temporary:
            (temporary / READER).mkdir()
            self.reader.save(temporary / READER)
            self.memory.copy_to(temporary / MEMORY)
            facts = {"format": FORMAT, "k": self.k, "rounds": self.rounds, "weigh_values": self.weigh_values}
            facts["pair_tokens"] = self.reader.pair_tokens
            (temporary / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> QAMAT:
        """What :meth:`save` wrote.

        Raises:
            StorageError: something is missing or damaged. SettingsError: memory and reader do not belong together.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"it has format {facts['format']}")
            options = {"k": int(facts["k"]), "rounds": int(facts["rounds"])}
            tokens, weigh = int(facts["pair_tokens"]), bool(facts["weigh_values"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"this folder holds no trained reader with its memory ({str(error)[:200]})"
            raise StorageError(what, where=str(path), mend="name a folder that QAMAT.save wrote") from None
        reader = PairReader.load(path / READER, device=device, pair_tokens=tokens)
        memory = QAMemory.open(path / MEMORY, encoder=ReaderEmbedder(reader))
        return cls(reader, memory, weigh_values=weigh, **options)


def asked(question: str, answer: str, *relevant: Sequence[str], hidden: Sequence[str] = ()) -> ReadingExample:
    """A question with its answer as an example of :meth:`QAMAT.finetune`.

    Args:
        relevant: of each round, ids of the pairs known to help; none for distant supervision by the answer.

    >>> asked("Where was Ada born?", "London", ["a"]).relevant
    (('a',),)
    """
    rounds = tuple(tuple(names) for names in relevant)
    return replace(ReadingExample(as_question(question), answer), relevant=rounds, hidden=tuple(hidden))

"""FaithfulRAG's claim: four calls that see what they may, chunks that meet beliefs, answers that follow the passage.

The contract of the stages is checked with a chat that notes what it was asked. Alignment is measured with the embedded
encoder on texts in which one sentence contradicts one of three facts. Whether facts that are put before the passage
make answers more faithful is measured with the embedded model on facts of the built-in world, candidates weighed by
probability: the published figures are of models fifty times its size, so that the direction alone is claimed.

Neither prompt lists the candidates. A first form of this experiment listed them in the prompt of FaithfulRAG alone and
did not hold: what it measured was the list, which costs this model about 20 points without any facts too.

With ``--data`` the passages are those of SQuAD, MuSiQue and FaithEval in which the paper measured it; see
:mod:`keeps.claims.faithful_rag_published`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.faithful_rag_published import FILES, published_checks
from keeps.claims.grounding_world import Item, context, items
from keeps.contracts import Answer, Run
from keeps.ground.alignment import Encoder, align, chunked, sentences
from keeps.ground.faithful_rag import FaithfulRAG, FaithfulRAGSettings
from keeps.ground.rag import RAG, RAGSettings
from keeps.models.chat import Conversation, LocalChat, Reply, Usage
from keeps.models.encoder import SentenceEncoder
from keeps.models.scores import ChoiceScore
from keeps.numerics.statistics import flips, mcnemar_exact, wilson

ITEMS = 50
SOURCE = "world:known:capital#25,world:known:country_of_city#25"
OTHER_STATEMENTS = "world:capital#60,world:country_of_city#60"
MINING_TOKENS = 100
CASES = 30
WORDS = 20
PLACES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Seoul", "Accra", "Quito", "Hanoi")
THINGS = ("Korvel Tower", "Sella Museum", "Brandt Library")
FILLERS = (
    "Tickets are sold at the gate on weekdays.", "The garden is open to everyone.", "School classes come in spring.",
    "The roof was mended after a storm.", "A small shop sells maps.", "Volunteers lead tours on Sundays.",
    "The collection grew by gifts.", "Concerts take place in the hall.", "Dogs must stay outside.",
    "The café serves soup.", "A new lift was built.", "Lamps were exchanged to save power.",
    "The stairs have ninety steps.", "Visitors may take pictures.", "The bell rings at noon.",
    "Benches stand under old trees.", "A fence runs along the river.",
)  # fmt: skip


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Contract, alignment, direction."""
    encoder = SentenceEncoder.load(device=run.device or "cpu")
    yield contract_check(encoder)
    yield from alignment_checks(encoder)
    model = run.model()
    chat = Remembering(LocalChat(model))
    if run.data is None:
        yield from direction_checks(chat, encoder, run)
    else:
        yield from published_checks(model, chat, encoder, MINING_TOKENS, run.data, run)


# --- the contract of the stages ------------------------------------------------------------------


class Noting:
    """A chat with four replies that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.replies = ["1. Where it is.", "BACKGROUND: it is in Paris.", "1. It is in Paris.", '{"Answer": "Rome"}']

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """One reply after another."""
        del max_new_tokens
        self.asked += ["\n".join(message.content for message in turn) for turn in conversations]
        return [Reply(self.replies[len(self.asked) - 1], True, Usage())]


def contract_check(encoder: Encoder) -> Check:
    """Rules of what a call may and must hold that are broken."""
    chat, said = Noting(), "The tower is in Rome. Tickets are sold at the gate."
    answerer = FaithfulRAG(FaithfulRAGSettings(keep=1), encoder)(chat, None, run=Run(Path()))
    (found,) = answerer.answer(["In which city is the tower?"], [said])
    rules = {
        "four calls": len(chat.asked) == 4,
        "order": [step["step"] for step in found.trace["steps"]]
        == ["claims", "background", "facts", "align", "answer"],
        "no context before the answer": not any("Rome" in text for text in chat.asked[:3]),
        "claims are read": "Where it is." in chat.asked[1],
        "facts are made of the background": "BACKGROUND" in chat.asked[2],
        "no background in the answer": "BACKGROUND" not in chat.asked[3],
        "context in the answer": said in chat.asked[3],
        "aligned chunks in the answer": found.trace["aligned"][0]["chunk"] in chat.asked[3].partition("Context:")[0],
    }
    broken = [name for name, kept in rules.items() if not kept]
    return Check("rules of the four calls that are broken", len(broken), "0", not broken, note=", ".join(broken))


# --- alignment -------------------------------------------------------------------------------------


def contradiction_ranks(encoder: Encoder) -> list[int]:
    """For each case, the place of the contradicting chunk among those aligned (21 where it is not among them).

    Twenty sentences, seventeen of which are about nothing in particular and three about three things; three facts,
    one of which the text contradicts: the thing is in another city.
    """
    ranks = []
    for case in range(CASES):
        thing = THINGS[case % len(THINGS)]
        believed, stated = PLACES[case % len(PLACES)], PLACES[(case * 3 + 1 + case // 10) % len(PLACES)]
        if believed == stated:
            stated = PLACES[(PLACES.index(stated) + 1) % len(PLACES)]
        contradiction = f"The {thing} is in {stated}."
        about = [f"The {other} has several floors." for other in THINGS if other != thing]
        text = [*FILLERS, *about]
        text.insert(case * 7 % (len(text) + 1), contradiction)
        facts = [f"The {thing} is in {believed}.", f"The {THINGS[(case + 1) % 3]} was built of stone.",
                 "Museums keep collections for later generations."]  # fmt: skip
        chunks = sentences(" ".join(text))
        found = align(facts, chunks, encoder, per_fact=5, keep=5)
        places = [n for n, item in enumerate(found, 1) if item.chunk == contradiction]
        ranks.append(places[0] if places else 21)
    return ranks


def alignment_checks(encoder: Encoder) -> Iterator[Check]:
    """Contradictions among the two best chunks, and the form of what is kept."""
    ranks = contradiction_ranks(encoder)
    share = wilson(sum(rank <= 2 for rank in ranks), CASES)
    yield Check(f"share of {CASES} contradicting sentences among the two best of 20", share.value, "at least 0.90",
                share.value >= 0.9, 0.1, (share.low, share.high), "baseline: two random sentences of 20")  # fmt: skip
    broken = 0
    for keep in (1, 2, 5):
        for per_fact in (1, 5):
            chunks = chunked(" ".join(FILLERS * 2), WORDS)
            found = align(["It is in Paris.", "Dogs stay out.", "It is old."], chunks, encoder, per_fact=per_fact,
                          keep=keep)  # fmt: skip
            scores = [item.score for item in found]
            places = [item.place for item in found]
            broken += len(found) > keep or len(set(places)) < len(places) or scores != sorted(scores, reverse=True)
    yield Check("alignments with a chunk twice, too many chunks or rising scores", broken, "0", broken == 0)


# --- direction -------------------------------------------------------------------------------------


class Remembering:
    """A chat that is asked each thing once: what is mined for a question does not depend on its passage."""

    def __init__(self, chat: LocalChat) -> None:
        self.chat = chat
        self.said: dict[Any, Reply] = {}

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """See :class:`keeps.models.chat.Chat`."""
        keys = [(tuple(turn), max_new_tokens) for turn in conversations]
        fresh = [key for key in dict.fromkeys(keys) if key not in self.said]
        replies = self.chat.reply([turn for turn, _ in fresh], max_new_tokens=max_new_tokens) if fresh else []
        self.said.update(zip(fresh, replies, strict=True))
        return [self.said[key] for key in keys]

    def weigh(
        self, conversations: Sequence[Conversation], choices: Sequence[Sequence[str]]
    ) -> list[tuple[ChoiceScore, Usage]]:
        """See :meth:`keeps.models.chat.LocalChat.weigh`."""
        return self.chat.weigh(conversations, choices)

    def count_tokens(self, text: str) -> int:
        """See :meth:`keeps.models.chat.LocalChat.count_tokens`."""
        return self.chat.count_tokens(text)


def direction_checks(chat: Remembering, encoder: Encoder, run: ClaimRun) -> Iterator[Check]:
    """Aligned facts before the passage against the passage alone, where it contradicts the model and where not."""
    asked, others = items(SOURCE)[:ITEMS], items(OTHER_STATEMENTS)
    questions, choices = [item.question for item in asked], [item.candidates for item in asked]
    circumstances = Run(run.workspace or Path())
    plain = RAG(RAGSettings(cite="none", budget=4000))(chat, None, run=circumstances)
    settings = FaithfulRAGSettings(mode="wo_cot", cite="none", mining_tokens=MINING_TOKENS, list_choices=False)
    faithful = FaithfulRAG(settings, encoder)(chat, None, run=circumstances)
    right: dict[tuple[str, bool], list[bool]] = {}
    for planted in (True, False):
        run.progress.message("passages that contradict the model" if planted else "passages that agree")
        contexts = [context(item, others, planted=planted) for item in asked]
        for name, answerer in (("plain", plain), ("faithful", faithful)):
            found = answerer.choose(questions, choices, contexts)
            right[name, planted] = [_follows(item, answer, planted) for item, answer in zip(asked, found, strict=True)]
            if name == "faithful":
                mined = sum(bool(answer.trace["self_facts"]) for answer in found)
                run.tables[f"questions with mined facts, {'counterfactual' if planted else 'golden'}"] = mined
    run.tables["share that follows the passage"] = {
        f"{name}, {'counterfactual' if planted else 'golden'}": sum(hits) / len(hits)
        for (name, planted), hits in right.items()
    }
    yield _direction(right, planted=True, most_loss=0.0)
    yield _direction(right, planted=False, most_loss=0.02)


def _follows(item: Item, answer: Answer, planted: bool) -> bool:
    return answer.text == (item.planted if planted else item.answers[0])


def _direction(right: Mapping[tuple[str, bool], Sequence[bool]], *, planted: bool, most_loss: float) -> Check:
    ours, plain = right["faithful", planted], right["plain", planted]
    count = len(ours)
    share, baseline = wilson(sum(ours), count), sum(plain) / count
    p = mcnemar_exact(*flips(ours, plain))
    kind = "counterfactual" if planted else "golden"
    threshold = "not below the plain prompt" if planted else "at most 2 points below the plain prompt"
    holds = share.value >= baseline - most_loss - 1e-9
    note = f"exact McNemar p = {p:.2g}; candidates weighed by probability"
    name = f"share of {count} {kind} passages that the answer follows, aligned facts before the passage"
    return Check(name, share.value, threshold, holds, baseline, (share.low, share.high), note)


CLAIM = Claim(
    card="faithful_rag",
    statement="Chunks of a passage that speak about what the model believes, put before the passage, make answers at "
    "least as faithful where the passage contradicts the model, and cost nothing where it does not.",
    published="Accuracy of the best setting: FaithEval 81.7, SQuAD (conflicts) 86.3, MuSiQue (conflicts) 79.9, "
    "RealtimeQA 84.1, 8 to 9 points above the strongest baseline on conflicts (llama3.1-8b and its like)",
    paper="arXiv:2506.08938",
    seeds=(0,),
    minutes=8,
    experiment=experiment,
    files=FILES,
)

"""Published layouts of edit files, as our own: CounterFact, EVOKE, KnowEdit, zsRE, UnKE.

A layout is recognised by its columns. What is called the same here and there is not always the same thing: the
*relation specificity* of KnowEdit asks for other relations of the subject, that of EVOKE for the same relation of
other subjects. Here those are ``same_subject`` and ``same_relation``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keeps.data.rows import Row

Values = dict[str, Any]
# Names in the files of KnowEdit -> ours.
KNOWEDIT_PORTABILITY: Mapping[str, str] = {
    "subject_aliasing": "subject_aliasing",
    "reasoning": "reasoning",
    "one_hop": "reasoning",
    "logical_generalization": "logical_generalisation",
}
KNOWEDIT_LOCALITY: Mapping[str, str] = {
    "relation_specificity": "same_subject",
    "forgetfulness": "other_objects",
    "neighborhood": "same_relation",
    "other": "unrelated",
}


def own_layout(row: Row) -> Values:
    """The values of ``row`` under the names of our own layout; a row of no known layout is given back as it is.

    Raises:
        RecordError: the row is of a known layout and lacks a part of it.
    """
    for telling, convert in _LAYOUTS:
        if telling(row.values):
            return convert(row)
    return row.values


def _counterfact(row: Row) -> Values:
    """CounterFact (Meng et al., 2022) in one level: neighbours share the true object unless they bring their own."""
    values = row.values
    truth = values.get("neighborhood_truth", values.get("target_true"))
    return {
        "id": values.get("case_id"),
        "relation": values.get("relation_id"),
        **{name: values.get(name) for name in ("subject", "prompt", "target_new", "target_true")},
        "paraphrases": values.get("paraphrase_prompts"),
        "locality": _asked(values.get("neighborhood_prompts"), "same_relation", truth),
        "generation_prompts": _distinct(values.get("generation_prompts")),
    }


def _nested_counterfact(row: Row) -> Values:
    """CounterFact as published, and EVOKE, which adds distractions, the subject's other relations and multi-hop."""
    values, wanted = row.values, row.values["requested_rewrite"]
    parts = ("prompt", "subject", "target_new", "target_true")
    if not isinstance(wanted, dict) or not set(parts) <= set(wanted):
        raise row.error("the request lacks a part", f"give {', '.join(parts)}", "requested_rewrite")
    new, true = (_string(wanted[name]) for name in ("target_new", "target_true"))
    locality = [
        *_asked(values.get("neighborhood_prompts"), "same_relation", true),
        *_asked(values.get("prefix_distraction"), "prefix_distraction", true),
    ]
    for entry in values.get("subject_specificity") or ():
        if not isinstance(entry, dict):
            mend = 'give {"prompt": "...", "ground_truth": "..."}: these prompts have answers of their own'
            raise row.error("an entry has no answer", mend, "subject_specificity")
        answer = next((entry[name] for name in ("ground_truth", "target", "answer") if name in entry), None)
        locality += _asked([entry.get("prompt")], "same_subject", answer)
    return {
        "id": values.get("case_id"),
        "relation": wanted.get("relation_id"),
        "subject": wanted["subject"],
        "prompt": str(wanted["prompt"]).replace("{}", str(wanted["subject"])),
        "target_new": new,
        "target_true": true,
        "paraphrases": values.get("paraphrase_prompts"),
        "portability": _multi_hop(row),
        "locality": locality,
        "generation_prompts": _distinct(values.get("generation_prompts")),
    }


def _multi_hop(row: Row) -> list[Values]:
    """Questions of CounterFactPlus: the answers with the edit and without it."""
    found = row.values.get("portability") or {}
    if not isinstance(found, dict) or not found:
        return []
    columns = [_listed(found.get(name)) for name in ("New Question", "New Answer", "Original Answer")]
    if len(columns[0]) == 1 and len(columns[1]) > 1:  # one question with several spellings of its answer
        columns[1] = [columns[1]]
    if len(columns[2]) > 1 and len(columns[0]) == 1:
        columns[2] = columns[2][:1]
    columns[2] = columns[2] or [""] * len(columns[0])
    if len({len(column) for column in columns}) > 1:
        raise row.error("questions and answers differ in number", "give one answer a question", "portability")
    return [
        {"kind": "multi_hop", "prompt": question, "answers": _answers(answer), "original": _string(original)}
        for question, answer, original in zip(*columns, strict=True)
    ]


def _knowedit(row: Row) -> Values:
    """KnowEdit (Zhang et al., 2024): maps of kinds to prompts whose answers are lists of spellings."""
    values = row.values
    rephrased = values.get("rephrase_prompt", values.get("rephrase"))
    unrelated = _asked(values.get("locality_prompt"), "unrelated", values.get("locality_ground_truth"))
    return {
        **{name: values.get(name) for name in ("subject", "prompt", "target_new")},
        "target_true": _string(values.get("ground_truth")),
        "paraphrases": [text for text in _listed(rephrased) if text],
        "portability": _kinds(row, "portability", KNOWEDIT_PORTABILITY),
        "locality": [*_kinds(row, "locality", KNOWEDIT_LOCALITY), *unrelated],
    }


def _is_knowedit(values: Mapping[str, Any]) -> bool:
    """Facts newer than the model (WikiData_recent) bring no ``ground_truth``, but maps of kinds as all others."""
    maps = any(isinstance(values.get(column), Mapping) for column in ("portability", "locality"))
    return {"prompt", "target_new"} <= set(values) and ("ground_truth" in values or maps)


def _wikibio(row: Row) -> Values:
    """WikiBio of KnowEdit: a passage, the sentence that belongs behind it, and whom it is about."""
    text, concept = _string(row.values["text"]), _string(row.values["concept"])
    return {
        "subject": concept if concept.casefold() in text.casefold() else "",
        "prompt": text,
        "target_new": row.values["labels"],
        "locality": _kinds(row, "locality", KNOWEDIT_LOCALITY),
    }


def _kinds(row: Row, column: str, names: Mapping[str, str]) -> list[Values]:
    found: list[Values] = []
    for kind, entries in (row.values.get(column) or {}).items():
        own = names.get(kind.casefold())
        if own is None:
            raise row.error(f'"{kind}" is no kind of {column}', f"KnowEdit has {', '.join(names)}", column)
        for entry in entries or ():
            if not isinstance(entry, dict):
                raise row.error("an entry is no object", 'give {"prompt": "...", "ground_truth": "..."}', column)
            answers = _answers(entry.get("ground_truth", entry.get("target")))
            if answers:  # lists without a usable answer are in the published files, and are skipped there too
                found.append({"kind": own, "prompt": entry.get("prompt"), "answers": answers})
    return found


def _zsre(row: Row) -> Values:
    """zsRE with a rephrased question and an unrelated one (Levy et al., 2017; Mitchell et al., 2022)."""
    values = row.values
    unrelated = _asked([values.get("locality_question")], "unrelated", values.get("locality_answer"))
    return {
        **{name: values.get(name) for name in ("subject", "target_new", "target_true")},
        "prompt": values.get("question"),
        "paraphrases": [values.get("rephrase")],
        "locality": unrelated if values.get("locality_question") else [],
    }


def _zsre_as_published(row: Row) -> Values:
    """The same under the names of the files that editors are compared on (Mitchell et al., 2022)."""
    values = row.values
    return {
        "subject": values.get("subject"),
        "prompt": values.get("src"),
        "target_new": values.get("alt"),
        "target_true": _string(values.get("answers")),
        "paraphrases": [text for text in _listed(values.get("rephrase")) if text],
        "locality": _asked(values.get("loc"), "unrelated", values.get("loc_ans")),
    }


def _unke(row: Row) -> Values:
    """UnKE (Deng et al., 2024): a long answer, and questions about its parts."""
    values = row.values
    questions, answers = _listed(values.get("sub_question")), _listed(values.get("sub_answer"))
    if len(questions) != len(answers):
        what = f"there are {len(questions)} questions and {len(answers)} answers"
        raise row.error(what, "give one answer a question", "sub_question")
    return {
        "id": values.get("id"),
        "prompt": values.get("question"),
        "target_new": values.get("answer"),
        "paraphrases": [values.get("para_question")],
        "portability": [
            {"kind": "sub_question", "prompt": question, "answers": _answers(answer)}
            for question, answer in zip(questions, answers, strict=True)
        ],
    }


_LAYOUTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Row], Values]], ...] = (
    (lambda values: "requested_rewrite" in values, _nested_counterfact),
    (lambda values: "neighborhood_prompts" in values, _counterfact),
    (lambda values: {"question", "rephrase", "target_new"} <= set(values), _zsre),
    (lambda values: {"src", "alt"} <= set(values), _zsre_as_published),
    (lambda values: {"question", "sub_question", "sub_answer"} <= set(values), _unke),
    (lambda values: {"text", "labels", "concept"} <= set(values), _wikibio),
    (_is_knowedit, _knowedit),
)


def _asked(prompts: object, kind: str, answer: object) -> list[Values]:
    return [{"kind": kind, "prompt": prompt, "answers": _answers(answer)} for prompt in _listed(prompts)]


def _answers(value: object) -> list[str]:
    """Spellings, from a text or from lists in lists."""
    if isinstance(value, (list, tuple)):
        return list(dict.fromkeys(text for item in value for text in _answers(item)))
    text = _string(value)
    return [text] if text else []


def _string(value: object) -> str:
    """A text that may stand alone, in a list (its first spelling) or under ``"str"``."""
    if isinstance(value, dict):
        value = value.get("str")
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip()


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _distinct(value: object) -> list[Any] | None:
    return None if value is None else list(dict.fromkeys(_listed(value)))

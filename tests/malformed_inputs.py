"""Malformed inputs, each with the error that it must give; shared by the tests of the readers and of the CLI.

Bytes are written to a file of the given name; ``words`` must all stand in the message.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.errors import EmptySetError, InputFileError, KeepsError, RecordError


@dataclass(frozen=True)
class Malformed:
    """One bad file: what it is called, what it holds, and what must be said of it."""

    id: str
    name: str
    content: bytes
    error: type[KeepsError]
    words: tuple[str, ...]

    def write(self, folder: Path) -> Path:
        """Write the file into ``folder`` and return its path."""
        path = folder / self.name
        path.write_bytes(self.content)
        return path


GOOD = '{"prompt": "The capital of Norway is", "answer": "Oslo"}\n'


def _jsonl(identity: str, line: str, error: type[KeepsError], *words: str) -> Malformed:
    """A JSONL file with a good first line and the bad one second."""
    return Malformed(
        identity, f"{identity}.jsonl", (GOOD + line + "\n").encode("utf-8", "surrogatepass"), error, ("line 2", *words)
    )


def _row(identity: str, *words: str, **values: Any) -> Malformed:
    return _jsonl(identity, json.dumps(values), RecordError, *words)


def _csv(identity: str, text: str, error: type[KeepsError], *words: str, name: str = "") -> Malformed:
    return Malformed(identity, name or f"{identity}.csv", text.encode(), error, words)


def _dialogue(identity: str, messages: Any, *words: str) -> Malformed:
    return _row(identity, "messages", *words, messages=messages)


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    sink = io.BytesIO()
    parquet.write_table(arrow.table(columns), sink)
    return sink.getvalue()


USER = {"role": "user", "content": "Which city is the capital of Norway?"}
OSLO = {"role": "assistant", "content": "Oslo."}
P = "The capital of Norway is"

MALFORMED: tuple[Malformed, ...] = (
    # files as such
    Malformed("empty-jsonl", "empty.jsonl", b"", EmptySetError, ("no record", "add at least one row")),
    Malformed("empty-json", "empty.json", b"", EmptySetError, ("no record",)),
    Malformed("empty-array", "array.json", b"[]\n", EmptySetError, ("no record",)),
    Malformed("empty-csv", "empty.csv", b"", EmptySetError, ("no record",)),
    Malformed("empty-paragraphs", "empty.txt", b"\n\n  \n", EmptySetError, ("no record",)),
    Malformed("blank-lines", "blank.jsonl", b"\n\n\n", EmptySetError, ("no record",)),
    Malformed("mark-only", "mark.csv", b"\xef\xbb\xbf", EmptySetError, ("no record",)),
    Malformed("header-only", "header.csv", b"prompt,answer\n", EmptySetError, ("no record",)),
    Malformed("header-only-tsv", "header.tsv", b"prompt\tanswer\n", EmptySetError, ("no record",)),
    Malformed("no-rows-parquet", "none.parquet", _parquet({"text": []}), EmptySetError, ("no record",)),
    Malformed("unknown-ending", "facts.xlsx", b"PK\x03\x04", InputFileError, (".xlsx", ".jsonl")),
    Malformed("compressed", "facts.jsonl.gz", b"\x1f\x8b", InputFileError, (".gz", ".jsonl")),
    Malformed("no-ending", "facts", GOOD.encode(), InputFileError, ("without ending", ".jsonl")),
    Malformed(
        "latin-1",
        "latin.csv",
        "prompt,answer\nThe capital of Togo is,Lomé\n".encode("latin-1"),
        InputFileError,
        ("line 2", "UTF-8", "0xe9"),
    ),
    Malformed("utf-16", "wide.csv", "prompt,answer\na,b\n".encode("utf-16"), InputFileError, ("UTF-16", "line 1")),
    Malformed("nul-bytes", "nul.jsonl", GOOD.encode() + b"\x00\x00\x00\n", InputFileError, ("line 2", "NUL")),
    Malformed("nul-bytes-text", "nul.txt", b"A passage.\n\nAn\x00other.\n", InputFileError, ("line 3", "NUL")),
    Malformed("binary-as-jsonl", "image.jsonl", b"\x89PNG\r\n\x1a\n\x00", InputFileError, ("line 1",)),
    # JSON
    _jsonl("invalid-json", '{"prompt": "a" "answer": "b"}', InputFileError, "not valid", "character 16"),
    _jsonl("cut-off", '{"prompt": "a", "ans', InputFileError, "not valid"),
    _jsonl("single-quotes", "{'prompt': 'a', 'answer': 'b'}", InputFileError, "double quotes"),
    _jsonl("two-on-a-line", GOOD.strip() + GOOD.strip(), InputFileError, "one object on each line"),
    _jsonl("row-is-array", '["a", "b"]', InputFileError, "an array, not an object"),
    _jsonl("row-is-text", '"a"', InputFileError, "a text, not an object"),
    _jsonl("row-is-null", "null", InputFileError, "null, not an object"),
    _jsonl("key-twice", '{"prompt": "a", "answer": "b", "answer": "c"}', InputFileError, '"answer" stands twice'),
    _jsonl("nan", '{"prompt": "a", "answer": NaN}', InputFileError, "NaN"),
    _jsonl("too-deep", "[" * 200_000, InputFileError, "nested too deeply"),
    _jsonl("huge-number", '{"prompt": "a", "answer": ' + "9" * 5000 + "}", InputFileError, "not valid"),
    Malformed("object-not-array", "one.json", GOOD.encode(), InputFileError, ("line 1", "not a JSON array", ".jsonl")),
    Malformed(
        "array-cut-off", "cut.json", b'[\n{"prompt": "a", "answer": "b"},\n', InputFileError, ("line 3", "not valid")
    ),
    Malformed("array-no-comma", "comma.json", b'[{"text": "a"}\n{"text": "b"}]', InputFileError, ("line 2", "comma")),
    Malformed(
        "array-last-comma", "last.json", b'[{"text": "a"},\n]', InputFileError, ("line 1", "comma", "take it out")
    ),
    Malformed("array-and-more", "more.json", b'[{"text": "a"}]\n[]', InputFileError, ("line 2", "follows")),
    Malformed(
        "array-bad-later", "later.json", b'[{"text": "a"},\n{"text":\n  oops}]', InputFileError, ("line 3", "not valid")
    ),
    Malformed(
        "array-of-texts", "texts.json", b'[{"text": "a"},\n"b"]', InputFileError, ("line 2", "a text, not an object")
    ),
    # separated values
    _csv("ragged-short", "prompt,answer\na,b\nc\n", InputFileError, "line 3", "1 cells", "header has 2"),
    _csv("ragged-long", "prompt,answer\na,b,c\n", InputFileError, "line 2", "3 cells", "double quotes"),
    _csv("open-quote", 'prompt,answer\n"a,b\nc,d\n', InputFileError, "line 2", "double quotes"),
    _csv("quote-inside", 'prompt,answer\n"a"x,b\n', InputFileError, "line 2", "double quotes"),
    _csv("column-twice", "prompt,answer,answer\na,b,c\n", InputFileError, "line 1", '"answer"', "rename"),
    _csv("column-nameless", "prompt,,answer\na,b,c\n", InputFileError, "line 1", "column 2", "name"),
    _csv("empty-cell", "prompt,answer\na,b\nc,\n", RecordError, "line 3", '"answer"', "empty"),
    _csv("commas-in-tsv", "prompt,answer\na,b\n", RecordError, "prompt,answer", name="commas.tsv"),
    _csv("list-not-json", 'prompt,answer,aliases\na,b,"[c"\n', RecordError, "line 2", "aliases", "JSON"),
    _csv("misspelt-header", "promt,answer\na,b\n", RecordError, '"promt"', '"prompt"', "line 2"),
    # columns and values
    _row("no-known-column", '"city"', "prompt", city="Oslo", land="Norway"),
    _row("missing-answer", '"answer"', "missing", prompt=P),
    _row("misspelt-answer", '"anwser"', '"answer"', prompt=P, anwser="Oslo"),
    _row("misspelt-optional", '"alias"', '"aliases"', prompt=P, answer="Oslo", alias=["Christiania"]),
    _row("missing-object", '"object"', "missing", subject="Norway", relation="capital"),
    _row("null-answer", '"answer"', "null", prompt=P, answer=None),
    _row("empty-prompt", '"prompt"', "empty", prompt="", answer="Oslo"),
    _row("blank-answer", '"answer"', "empty", prompt=P, answer="  "),
    _row("empty-text", '"text"', "empty", text=""),
    _row("prompt-is-list", '"prompt"', "a list", prompt=[P], answer="Oslo"),
    _row("answer-is-list", '"answers"', "a list", prompt=P, answer=["Oslo"]),
    _row("answer-is-object", '"answer"', "an object", prompt=P, answer={"text": "Oslo"}),
    _row("answers-nested", '"answers"', "an object, not a list", question=P, answers={"text": ["Oslo"], "start": [3]}),
    _row("answer-is-bool", '"answer"', "true or false", prompt=P, answer=True),
    _row("no-answers", '"answers"', "no answer", prompt=P, answers=[]),
    _row("aliases-is-number", '"aliases"', "not a list", prompt=P, answer="Oslo", aliases=3),
    _row("alias-is-object", '"aliases"', "an object", prompt=P, answer="Oslo", aliases=[{"name": "Oslo"}]),
    _row("prompt-and-question", "both", "keep one", prompt=P, question=P, answer="Oslo"),
    _row("id-is-list", '"id"', "a list", id=["a"], prompt=P, answer="Oslo"),
    _row("id-empty", '"id"', "empty", id="", prompt=P, answer="Oslo"),
    _jsonl("half-surrogate", '{"prompt": "a\\ud800", "answer": "b"}', RecordError, '"prompt"', "surrogate"),
    _jsonl("escaped-nul", '{"prompt": "a\\u0000", "answer": "b"}', RecordError, '"prompt"', "NUL"),
    # ids
    Malformed(
        "id-twice",
        "twice.jsonl",
        b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n{"id": "a", "text": "three"}\n',
        RecordError,
        ('"a" stands twice', "line 1", "line 3"),
    ),
    _csv("id-twice-csv", "id,text\n7,one\n7,two\n", RecordError, '"7" stands twice', "line 2", "line 3"),
    # choices
    _row(
        "answer-not-a-choice", "not among the choices", '"Bergen"', prompt=P, answer="Oslo", choices=["Bergen", "Riga"]
    ),
    _row("index-too-large", "not among the choices", "index", prompt=P, answer=2, choices=["Bergen", "Oslo"]),
    _row("index-ambiguous", "index", "as text", prompt="One and one is", answer=1, choices=["1", "2"]),
    _row("answer-with-choices-is-null", '"answer"', "null", prompt=P, answer=None, choices=["Bergen", "Oslo"]),
    _row("index-is-fraction", "whole number", prompt=P, answer=1.5, choices=["Bergen", "Oslo"]),
    _row("one-choice", '"choices"', "at least two", prompt=P, answer="Oslo", choices=["Oslo"]),
    _row("choice-twice", '"choices"', "stands twice", prompt=P, answer="Oslo", choices=["Oslo", "Oslo"]),
    _row("choices-nested", '"choices"', "an object", prompt=P, answer="Oslo", choices={"text": ["Oslo", "Riga"]}),
    _row(
        "fact-not-a-choice", "not among", subject="Norway", relation="capital", object="Oslo", choices=["Riga", "Rome"]
    ),
    # dialogues
    _dialogue("messages-is-text", "Oslo", "not an object"),
    _dialogue("messages-is-object", USER, "not a list"),
    _dialogue("messages-empty", [], "assistant"),
    _dialogue("message-is-text", ["hello", "Oslo"], "message 1", "role"),
    _dialogue("message-without-role", [{"content": "hello"}, OSLO], "message 1", "role"),
    _dialogue("role-unknown", [{"role": "human", "content": "hello"}, OSLO], "human", "assistant"),
    _dialogue("ends-with-user", [USER, OSLO, USER], "do not end"),
    _dialogue("only-assistant", [OSLO], "after at least one"),
    _dialogue("message-empty", [USER, {"role": "assistant", "content": " "}], "message 2", "no text"),
    _dialogue("message-in-parts", [{"role": "user", "content": [{"type": "text"}]}, OSLO], "message 1", "no text"),
    # Parquet
    Malformed("not-parquet", "text.parquet", b"prompt,answer\na,b\n", InputFileError, ("Parquet",)),
    Malformed("parquet-empty-file", "void.parquet", b"", InputFileError, ("Parquet",)),
    Malformed(
        "parquet-cut-off", "cut.parquet", _parquet({"text": ["a", "b"]})[:-20], InputFileError, ("Parquet", "damaged")
    ),
    Malformed("parquet-columns", "other.parquet", _parquet({"city": ["Oslo"]}), RecordError, ("row 1", '"city"')),
    Malformed("parquet-null", "null.parquet", _parquet({"text": ["a", None]}), RecordError, ("row 2", "null")),
    Malformed("parquet-bytes", "bytes.parquet", _parquet({"text": [b"a"]}), RecordError, ("row 1", "bytes")),
    Malformed(
        "parquet-nan",
        "nan.parquet",
        _parquet({"prompt": ["a"], "answer": [float("nan")]}),
        RecordError,
        ("row 1", "finite"),
    ),
)

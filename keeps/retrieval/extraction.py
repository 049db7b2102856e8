"""The text in HTML, Markdown and PDF files, and what they are called."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

from keeps.errors import InputFileError, MissingDependencyError

_UNSEEN = {"script", "style", "template", "noscript", "svg", "iframe", "object", "canvas"}
_HIDEABLE = {"div", "section", "article", "span", "aside"}  # always closed, so that what is hidden has an end
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "div", "dl", "dt", "fieldset"),
    *("figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main"),
    *("nav", "ol", "option", "p", "pre", "section", "table", "td", "th", "tr", "ul"),
}
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


def html_text(html: str) -> tuple[str, str]:
    """What a reader sees of a page, block by block on lines of their own, and its title.

    Scripts, styles and hidden blocks are left out.

    >>> html_text("<title>A</title><p>One <b>two</b>.<script>evil()</script><p hidden>x")
    ('One two.\\nx', 'A')
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).splitlines())
    return "\n".join(line for line in lines if line), " ".join("".join(reader.title).split())


def markdown_title(text: str) -> str:
    """The first heading.

    >>> markdown_title("intro\\n# The **city** #\\n")
    'The city'
    """
    found = _HEADING.search(text)
    return re.sub(r"[*_`]", "", found.group(1)).strip() if found else ""


def pdf_text(data: bytes, where: str) -> tuple[str, str]:
    """The text of a PDF file, its pages with empty lines between them, and its title.

    Raises:
        MissingDependencyError: pypdf is not installed (extra ``pdf``).
        InputFileError: the file is damaged or locked, or holds no text.
    """
    try:
        import pypdf  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError:
        raise MissingDependencyError("reading PDF needs pypdf", where=where, mend='pip install "keeps[pdf]"') from None
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputFileError("the file is locked with a password", where=where, mend="unlock it")
        pages = [(page.extract_text() or "").strip() for page in reader.pages]
        title = str((reader.metadata or {}).get("/Title") or "")
    except InputFileError:
        raise
    except Exception as error:  # damaged files raise whatever the reader stumbles over
        what = f"the PDF cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise InputFileError(what, where=where, mend="write the file again") from None
    text = "\n\n".join(page for page in pages if page)
    if not text:
        mend = "recognise the text first"
        raise InputFileError("the PDF holds pictures and no text", where=where, mend=mend)
    return text.encode("utf-8", "replace").decode(), " ".join(title.split())


class _Reader(HTMLParser):
    """Collects visible text; knows no recursion, so that depth of nesting costs nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._in_title = False
        self._unseen = ""  # the tag that hides what follows
        self._depth = 0  # of that tag in itself

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen:
            self._depth += tag == self._unseen
            return
        values = dict(attrs)
        hidden = tag in _HIDEABLE and ("hidden" in values or _HIDDEN_STYLE.search(values.get("style") or ""))
        if tag in _UNSEEN or hidden:
            self._unseen, self._depth = tag, 1
        elif tag == "title":
            self._in_title = True
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS and not self._unseen:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            self._depth -= tag == self._unseen
            if not self._depth:
                self._unseen = ""
        elif tag == "title":
            self._in_title = False
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._unseen:
            self.parts.append(data)

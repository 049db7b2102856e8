"""Adds the pages that are made from the code while the site is built."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files

import keeps
from keeps.cli.measured import with_measured
from keeps.cli.pages import errors_page, site_pages


def on_config(config: Any) -> Any:
    """List the page of each method in the navigation."""
    pages = sorted(path for path in site_pages({}) if path.startswith("methods/") and path != "methods/index.md")
    section = {"Methods": ["methods/index.md", *pages]}
    config["nav"] = [section if entry == {"Methods": "methods"} else entry for entry in config["nav"]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages beside the written ones."""
    for path, text in site_pages(keeps._HOMES).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table of errors, and those of measured figures, where a page asks for them."""
    return with_measured(markdown.replace("<!-- errors -->", errors_page()))

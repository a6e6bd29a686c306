"""The page as a whole."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from score_sde.atomic import read_whole
from score_sde.pictures.page.elements import Html, joined, tag

_HERE = Path(__file__).parent
MADE_BY = "score-sde report"
"""What a page says it was made by, by which it is known again."""


def document(title: str, head: Html, sections: Mapping[str, Html], foot: object = "") -> str:
    """A page with a section under each heading, and links to them.

    Args:
        title: of the page.
        head: what stands above the sections.
        sections: by heading.
        foot: the last line.
    """
    style, script = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="generator", content=MADE_BY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", style),
        ),
        tag(
            "body",
            tag("header", tag("h1", title), head),
            tag(
                "nav",
                *(tag("a", name, href=f"#{_anchor(name)}") for name in sections),
                aria_label="Sections",
            ),
            tag(
                "main",
                *(
                    tag("section", tag("h2", name), part, id=_anchor(name))
                    for name, part in sections.items()
                ),
            ),
            tag("footer", foot),
            tag("script", script),
        ),
        lang="en",
    )
    return joined([Html("<!DOCTYPE html>\n"), page, Html("\n")])


def _part(name: str) -> Html:
    return Html(read_whole(_HERE / name).decode())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")

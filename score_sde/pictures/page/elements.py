"""Elements of HTML and SVG, whose text is escaped unless it is HTML already."""

import html
from collections.abc import Iterable

_VOID = {"br", "img", "input", "link", "meta"}
"""Elements without an end."""


class Html(str):
    """Text that is HTML, and so is not escaped again; only this module makes it of other text."""


def joined(parts: Iterable[object]) -> Html:
    """Parts one after the other, escaped where they are no HTML; None is left out."""
    given = [part for part in parts if part is not None]
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in given))


def tag(name: str, /, *inside: object, **attributes: object) -> Html:
    """An element.

    Args:
        name: of the element.
        *inside: what it holds, see `joined`.
        **attributes: by their names, with _ for - and at the end of a word that Python keeps
            (`class_`). Those that are None or False are left out; True has no value.
    """
    words = [name]
    for key, value in attributes.items():
        attribute = key.removesuffix("_").replace("_", "-")
        if value is True:
            words.append(attribute)
        elif value is not None and value is not False:
            words.append(f'{attribute}="{html.escape(str(value))}"')
    begin = f"<{' '.join(words)}>"
    return Html(begin if name in _VOID else f"{begin}{joined(inside)}</{name}>")


def fold(summary: object, *inside: object, is_open: bool = False) -> Html:
    """What is shown when its summary is asked for."""
    return tag("details", tag("summary", summary), *inside, open=is_open)

"""Tables, pictures and rows of pictures of a page."""

import base64
from collections.abc import Mapping, Sequence

from score_sde.pictures.page.elements import Html, fold, joined, tag


def table(
    caption: str,
    columns: Sequence[object],
    rows: Sequence[Sequence[object]],
    marked: Sequence[int] = (),
) -> Html:
    """A table whose first column names the rows; it scrolls where it is too wide.

    Args:
        caption: above it.
        columns: headings.
        rows: of cells.
        marked: the numbers of rows that stand out.
    """
    heads = tag("tr", *(tag("th", name, scope="col") for name in columns))
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row") if not k else tag("td", cell)
                for k, cell in enumerate(row)
            ),
            class_="marked" if number in marked else None,
        )
        for number, row in enumerate(rows)
    ]
    made = tag("table", tag("caption", caption), tag("thead", heads), tag("tbody", *body))
    return tag("div", made, class_="wide", tabindex=0, role="region", aria_label=caption)


def facts(pairs: Mapping[str, object]) -> Html:
    """Names and values, side by side; nothing where there are none."""
    if not pairs:
        return Html()
    return tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items())
    )


def notes(sentences: Sequence[str], summary: str = "") -> Html:
    """Sentences, one under the other; nothing where there are none."""
    if not sentences:
        return Html()
    lines = tag("ul", *(tag("li", sentence) for sentence in sentences), class_="notes")
    return fold(summary, lines) if summary else lines


def data_uri(kind: str, content: bytes) -> str:
    """Bytes of a kind, as `image/png`, within the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(source: str, alt: str, size: tuple[int, int], caption: object = "") -> Html:
    """A picture with its caption.

    Args:
        source: its `data_uri`.
        alt: what it shows, for those who do not see it.
        size: width and height in pixels.
        caption: below it.
    """
    image = tag("img", src=source, alt=alt, width=size[0], height=size[1])
    return tag("figure", image, tag("figcaption", caption) if caption else None)


def slides(name: str, frames: Mapping[str, Html]) -> Html:
    """Frames of which a slider shows one; without a script all stand in a row, to be scrolled.

    Args:
        name: of what the slider sets, such as "training step".
        frames: by what the slider says of them, in order, at least one; the last one is shown
            first.
    """
    last = len(frames) - 1
    shown = [tag("div", frame, class_="frame", data_at=at) for at, frame in frames.items()]
    row = tag("div", *shown, class_="frames", tabindex=0, role="region", aria_label=name)
    control = tag(
        "label",
        joined([f"{name} ", tag("output", [*frames][-1])]),
        tag("input", type="range", min=0, max=last, value=last, step=1),
        class_="slider",
        hidden=True,
    )
    return tag("div", control, row, class_="slides")

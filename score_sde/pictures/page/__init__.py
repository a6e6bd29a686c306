"""A page about a run: charts, tables and pictures in one HTML file that needs nothing beside it.

Whatever is put into it is escaped (`elements.tag`), its script and its style are named by their
digests in the page's own policy, and the policy lets a browser load nothing else: no name that a
user gave becomes code, and no request leaves.
"""

from score_sde.pictures.page.chart import chart
from score_sde.pictures.page.document import document
from score_sde.pictures.page.elements import Html, fold, joined, tag
from score_sde.pictures.page.parts import data_uri, facts, notes, picture, slides, table

__all__ = [
    "Html",
    "chart",
    "data_uri",
    "document",
    "facts",
    "fold",
    "joined",
    "notes",
    "picture",
    "slides",
    "table",
    "tag",
]

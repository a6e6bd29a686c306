"""The documentation's site, by Sphinx: `sphinx-build -W -n docs build/site`.

Pages are Markdown that GitHub shows too (MyST reads it), the notebooks of `examples/` as they were
saved, and one page of the API for each room of the library, written here from its docstrings.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx import addnodes
from sphinx.util import logging

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # recipes and library of this checkout, not an installed copy

import score_sde  # noqa: E402

project = "score-sde"
author = "the authors of score-sde"
version = release = score_sde.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "pydata_sphinx_theme"
html_title = "score-sde"
html_sidebars = {"index": [], "tutorial": [], "gallery": []}  # pages without pages below them

# Markdown: formulas between dollars and anchors of headings, as GitHub has both.
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True  # displayed formulas may stand within a paragraph
myst_heading_anchors = 4
html_math_renderer = "mathml"  # which browsers draw by themselves, without a script of the web's
nb_execution_mode = "off"  # tests execute the notebooks; the site shows what was saved

# Docstrings: what single backticks name is a link where the site knows the name.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand with their class, which says what they are
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

MARKUP = re.compile(r"[*|]|(?<=\w)_(?!\w)")
"""What reStructuredText would read for more than it is: emphasis, substitutions, references."""

ROOMS = [room.name for room in pkgutil.iter_modules(score_sde.__path__)]


def modules_of(name: str) -> list[str]:
    """A module and all that lie in it, each before what it holds."""
    path = getattr(importlib.import_module(name), "__path__", [])
    inside = [modules_of(f"{name}.{module.name}") for module in pkgutil.iter_modules(path)]
    return [name, *(each for modules in inside for each in modules)]


# With -n every public name of our own that a signature refers to must be on a page. Names of
# others would need their inventories from the network, and backticks also stand around code.
nitpick_ignore_regex = [(r"py:.*", r"(?!score_sde\.).*|.*\._\w+"), (r"py:obj", r".*")]
nitpick_ignore = [
    ("py:class", f"{module}.{name}")
    for module in modules_of("score_sde")
    for name, value in vars(sys.modules[module]).items()
    if isinstance(value, TypeVar)
]


def page_of(room: str) -> str:
    """The page of a room: each name once, where users import it from."""
    lines, shown = [f"# `score_sde.{room}`", "", "```{eval-rst}"], set()
    for name in modules_of(f"score_sde.{room}"):
        module, (parent, _, last) = importlib.import_module(name), name.rpartition(".")
        public = getattr(module, "__all__", [])
        seen = sorted(each for each in vars(module) if id(vars(module)[each]) in shown)
        shown |= {id(vars(module)[each]) for each in public if callable(vars(module)[each])}
        lines += [f".. automodule:: {name}", "   :members:", "   :special-members: __call__"]
        lines += [f"   :exclude-members: {', '.join(seen)}"] if seen else []
        if last in getattr(sys.modules[parent], "__all__", []):  # of a function's name
            lines += ["   :no-index:"]
        lines += [""]
    return "\n".join([*lines, "```", ""])


def write_pages(app: Any) -> None:
    """Writes the API's pages and copies the notebooks, into folders of docs/ that git ignores."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    for room in ROOMS:
        page, text = folder / f"{room}.md", page_of(room)
        if not page.exists() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")
    shutil.rmtree(DOCS / "examples", ignore_errors=True)
    shutil.copytree(DOCS.parent / "examples", DOCS / "examples")  # with their times


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Takes a docstring for plain text with names in backticks, before napoleon reads it.

    Formulas have stars, bars and subscripts, which would be markup. Indented blocks and tables
    keep their columns.
    """
    laid, literal, section = [], False, False
    for before, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith(" "):
            section = bool(re.fullmatch(r"[A-Z]\w+:", line))  # Args:, Returns: and the like
            literal = literal and line.startswith("|")
        if not literal and not section and not before.strip() and re.match(r" {4}|\| ", line):
            laid += ["::", ""]
            literal = True
        if literal:
            laid.append(f"    {line}" if line.startswith("|") else line)
        else:
            pieces = re.split(r"(`[^`]*`)", line)
            pieces[::2] = [
                re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", text) for text in pieces[::2]
            ]
            laid.append(re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", "".join(pieces)))
    lines[:] = laid


def link_names(app: Any, doctree: nodes.document) -> None:
    """Makes names of the library between backticks links to the API, where it has them."""
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removeprefix("score_sde.")
        room, _, rest = name.partition(".")
        inside = isinstance(literal.parent, addnodes.pending_xref | nodes.reference | nodes.title)
        if room in ROOMS and re.fullmatch(r"\w+(\.\w+)*", rest) and not inside:
            to = {"refdomain": "py", "reftype": "obj", "reftarget": f"score_sde.{name}"}
            link = addnodes.pending_xref("", refdoc=app.env.docname, refwarn=False, **to)
            literal.replace_self(link)
            link += literal


def write_math(self: Any, node: nodes.Element, block: bool = False) -> None:
    """Writes a formula as MathML, by docutils' own converter."""
    # It knows one size of brackets and dots by one name, reads the 12 of \frac12 as twelve, and
    # puts an index of \bar x under it.
    tex = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])", "", node.astext())
    tex = re.sub(r"\\dots(?![a-zA-Z])", r"\\ldots", tex)
    tex = re.sub(r"(\\[dt]?frac)\s*(\d)\s*(\w)", r"\1{\2}{\3}", tex)
    tex = re.sub(r"\\(bar|hat|tilde)\s*(\{[^{}]*\}|\\[a-zA-Z]+|\w)", r"{\\\1{\2}{}}", tex)
    try:
        self.body.append(latex2mathml.tex2mathml(tex, as_block=block))
    except (MathError, AttributeError) as error:  # the second of what is no formula at all
        logging.getLogger(__name__).warning("%s: %s", error, node.astext(), location=node)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Has pages written before Sphinx looks for them, and docstrings and formulas read as ours."""
    app.add_html_math_renderer(
        "mathml", (write_math, None), (partial(write_math, block=True), None)
    )
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", plain, priority=100)
    app.connect("doctree-read", link_names)

"""The fields of `schema` listed: `--help_config`, and the page docs/config.md."""

import sys
from collections.abc import Iterator

from score_sde.config import schema


def _by_group() -> Iterator[tuple[str, str, list[tuple[str, schema.Field]]]]:
    for group, title in schema.GROUPS.items():
        rows = [(n, f) for n, f in schema.FIELDS.items() if n.rpartition(".")[0] == group]
        yield group, title, rows


def help_text() -> str:
    """Every field by group, for `--help_config`."""
    lines = []
    for group, title, rows in _by_group():
        lines += [f"{group or 'config'}: {title}", ""]
        for name, field in rows:
            lines.append(f"  --config.{name}={field.default}")
            lines.append(f"      {field.help}")
            if field.holds:
                lines.append(f"      {field.holds.words}")
        lines.append("")
    return "\n".join(lines)


_RESUMED = {
    "free": "yes",
    "on_request": "with `--allow {name}`",
    "images": "with `--allow data`",
    "never": "no",
}


def page() -> str:
    """docs/config.md, made by `python -m score_sde.config.listing`."""
    lines = [
        "# Config fields",
        "",
        "`python -m score_sde.config.listing` makes this page from the rows of "
        "`score_sde/config/schema/`.",
        "Every field can be overridden on the command line: `--config.optim.lr=1e-4`. The last "
        "column says whether a",
        "run that is resumed may change it.",
    ]
    for group, title, rows in _by_group():
        lines += ["", f"## {group or 'config'}: {title}", ""]
        lines += ["| field | default | | may hold | resumed |", "|---|---|---|---|---|"]
        for name, field in rows:
            holds = field.holds.words if field.holds else type(field.default).__name__
            lines.append(
                f"| `{name}` | `{field.default!r}` | {field.help} | {holds} "
                f"| {_RESUMED[field.resume].format(name=name)} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())

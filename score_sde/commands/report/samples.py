"""What a report shows of samples: the snapshots over training, sheets, films."""

import re
from pathlib import Path

from score_sde.commands.report.album import Album
from score_sde.pictures import page
from score_sde.pictures.page import Html

MOST_STEPS = 24
"""Snapshots of a run that the slider has; of more, so many at even distances."""
_OF_SNAPSHOTS = 8 * 2**20
_OF_FILMS = 5 * 2**20
_OF_SHEETS = 2 * 2**20
_MOST_FILMS, _MOST_SHEETS = 6, 24
_SNAPSHOT = re.compile(r"step_(\d{8,18})\.png")


def of_training(workdir: Path, album: Album) -> Html:
    """The samples of each snapshot, with a slider, and the films of some of them."""
    found = {
        int(match[1]): path
        for path in sorted((workdir / "samples").glob("step_*.png"))
        if (match := _SNAPSHOT.fullmatch(path.name))
    }
    chosen = [sorted(found)[k] for k in _even(len(found), MOST_STEPS)]
    kept = {step: found[step] for step in chosen}
    album.omitted += [path for step, path in found.items() if step not in kept]
    pictures = {}
    for step, path in kept.items():
        alt = f"Samples at step {step:,}: a sheet of images"
        made = album.picture(path, alt, _OF_SNAPSHOTS // len(kept), f"step {step:,}: {path.name}")
        if made is not None:
            pictures[step] = made
    films = _films([kept[step] for step in pictures], album)
    frames = {}
    for step, picture in pictures.items():
        film = films.get(kept[step])
        frames[f"{step:,}"] = page.tag(
            "div",
            picture,
            film and page.fold("Film: from noise to these images", film, is_open=True),
            class_="pair",
        )
    if not frames:
        return Html()
    lost = len(found) - len(kept)
    said = f"{len(frames)} of {len(found)} snapshots are shown." if lost else ""
    return page.joined(
        [page.slides("Training step", frames), page.tag("p", said) if said else None]
    )


def _films(snapshots: list[Path], album: Album) -> dict[Path, Html]:
    """The films beside some snapshots: the last one first, then the first, then those between."""
    there = [path for path in snapshots if path.with_suffix(".gif").exists()]
    chosen = [there[k] for k in _even(len(there), _MOST_FILMS)]
    first = chosen[-1:] + chosen[:-1]
    made = {}
    for path in first:
        gif = path.with_suffix(".gif")
        alt = f"Film of the reverse process: how the images of {path.name} come out of noise"
        if film := album.picture(gif, alt, _OF_FILMS // len(first)):
            made[path] = film
    album.omitted += [path.with_suffix(".gif") for path in there if path not in chosen]
    return made


def sheets(workdir: Path, album: Album) -> Html:
    """The other pictures: sheets of `--mode sample` and its like, the newest first, and films."""
    folder = workdir / "samples"
    others = [
        path
        for path in [*folder.glob("*.png"), *folder.glob("*_film.gif")]
        if not _SNAPSHOT.fullmatch(path.name)
    ]
    others.sort(key=_written)
    made = [
        album.picture(path, f"{_words(path)}: a sheet of images", _OF_SHEETS, _words(path))
        for path in others[::-1][:_MOST_SHEETS]
    ]
    album.omitted += others[::-1][_MOST_SHEETS:]
    made = [picture for picture in made if picture]
    return page.tag("div", *made, class_="pictures") if made else Html()


def beside(path: Path, suffixes: dict[str, str], album: Album) -> Html:
    """The pictures beside a report, by what its name ends in, with what they show."""
    made = [
        album.picture(other, f"{words} of {path.stem}", _OF_SHEETS, words)
        for suffix, words in suffixes.items()
        if (other := path.with_name(f"{path.stem}{suffix}")).exists()
    ]
    made = [picture for picture in made if picture]
    return page.tag("div", *made, class_="pictures large") if made else Html()


def _words(path: Path) -> str:
    """What a sheet's name says: step_00002000_heun_grid.png → step 2,000: heun."""
    match = re.fullmatch(r"step_(\d{8,18})_(.*?)(?:_grid)?\.\w+", path.name)
    return f"step {int(match[1]):,}: {match[2].replace('_', ' ')}" if match else path.name


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a link to nothing, or gone
        return 0.0


def _even(of: int, most: int) -> list[int]:
    """At most so many places out of `of`, evenly, the first and the last among them."""
    if of <= most:
        return list(range(of))
    return [round(k * (of - 1) / (most - 1)) for k in range(most)]

"""The ladder's data in the plane, and how they are drawn: densities, arrows, paths, films.

Points are tensors (N, 2). A view is half the side of the square that is drawn, in data units.
"""

import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image
from matplotlib.axes import Axes
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if (ROOT / "score_sde").is_dir() and str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the library of this checkout, whether or not it is installed

from score_sde.data import open_source, scale
from score_sde.score.exact import Classes, Points

BLUE, ORANGE, GREY = "#1f6fb4", "#e2701d", "#8a8a8a"
VIEW = 4.0

torch.set_num_threads(1)  # networks this small gain nothing from more
plt.rcParams.update(
    {"figure.dpi": 66, "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False}
    | {"axes.spines.right": False, "legend.frameon": False, "axes.grid": False}
)


# Data


def islands() -> Points:
    """Two clusters of std 0.4 far apart, with probabilities 0.2 (lower left) and 0.8."""
    return Points(torch.tensor([[-2.0, -2.0], [2.0, 2.0]]), 0.4, torch.tensor([0.2, 0.8]))


def wheel(blades: int = 5) -> Classes:
    """A wheel of long thin Gaussians, one a blade, which turns counter-clockwise."""
    angle = 2 * math.pi * torch.arange(blades, dtype=torch.float64) / blades
    out = torch.stack([angle.cos(), angle.sin()], 1)
    along = torch.stack([(angle + 0.9).cos(), (angle + 0.9).sin()], 1)
    spread = 0.8**2 * along[:, :, None] * along[:, None, :]
    return Classes(2.0 * out, spread, 0.12)


def spiral(n: int, seed: int) -> Tensor:
    """n points on an arm that winds one and a half times about the origin, with noise of 0.06."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, generator=generator).sqrt()
    angle = 3 * math.pi * u + 0.5
    arm = 2.8 * u[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return arm + 0.06 * torch.randn(n, 2, generator=generator)


def digits(split: str = "train") -> tuple[Tensor, Tensor]:
    """scikit-learn's digits of 8x8 pixels in [-1, 1], (N, 1, 8, 8), and their labels (N,)."""
    source = open_source("digits", split, root="", image_size=(8, 8), num_channels=1)
    index = torch.arange(len(source))
    return scale(source.images(index) / (source.info.levels - 1)), source.labels(index)


# Drawing


def panels(count: int, side: float = 2.6, columns: int = 0, plain: bool = True) -> list[Axes]:
    """A figure of so many axes: plain squares, or wider ones with ticks, for curves."""
    columns = columns or count
    rows = -(-count // columns)
    size = (side * columns, side * rows * (1 if plain else 0.66))
    _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    every = list(axes.flat)
    for ax in every[count:]:
        ax.set_visible(False)
    for ax in every[:count] if plain else []:
        ax.set(aspect="equal", xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(False)
    return every[:count]


def lattice(n: int, view: float = VIEW) -> Tensor:
    """n × n points of the plane, row by row from below: (n², 2)."""
    axis = torch.linspace(-view, view, n)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def density(
    ax: Axes, log_density: Callable[[Tensor], Tensor], view: float = VIEW, cmap: str = "Blues"
) -> None:
    """Shades the plane by a density, given its logarithm (N, 2) → (N,)."""
    values = log_density(lattice(160, view)).exp().reshape(160, 160)
    ax.imshow(values, extent=(-view, view, -view, view), origin="lower", cmap=cmap, aspect="equal")


def height(
    ax: Axes,
    function: Callable[[Tensor], Tensor],
    view: float = VIEW,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
) -> None:
    """Shades the plane by any number (N, 2) → (N,), with a bar that says which."""
    low, high = limits or (None, None)
    values = function(lattice(100, view)).detach().reshape(100, 100)
    shaded = ax.imshow(
        values, extent=(-view, view, -view, view), origin="lower", cmap=cmap, vmin=low, vmax=high
    )
    ax.figure.colorbar(shaded, ax=ax, shrink=0.75)


def arrows(
    ax: Axes,
    field: Callable[[Tensor], Tensor],
    view: float = VIEW,
    n: int = 15,
    color: str = "black",
) -> None:
    """Arrows along a field (N, 2) → (N, 2); long ones are shortened to where they can be seen."""
    at = lattice(n, 0.94 * view)
    v = field(at).detach()
    length = v.norm(dim=1, keepdim=True)
    v = v / length.clamp_min(1e-9) * (length / (1 + length))
    ax.quiver(*at.T, *v.T, color=color, angles="xy", scale=n * 0.75, width=0.006)


def points(
    ax: Axes,
    x: Tensor,
    color: str = ORANGE,
    view: float = VIEW,
    size: float = 3,
    **options: object,
) -> None:
    """Points (N, 2)."""
    ax.scatter(*x.detach().T, s=size, color=color, linewidths=0, **options)
    ax.set(xlim=(-view, view), ylim=(-view, view))


def paths(ax: Axes, states: Sequence[Tensor], color: str = GREY, view: float = VIEW) -> None:
    """The paths of points through states (N, 2) in turn: from a ring to a dot."""
    walked = torch.stack(list(states)).detach()
    ax.plot(walked[:, :, 0], walked[:, :, 1], color=color, lw=0.6, alpha=0.8)
    ax.scatter(*walked[0].T, s=14, facecolors="none", edgecolors=color, linewidths=0.8, zorder=3)
    ax.scatter(*walked[-1].T, s=10, color=color, linewidths=0, zorder=3)
    ax.set(xlim=(-view, view), ylim=(-view, view))


def pictures(ax: Axes, images: Tensor, columns: int = 10, title: str = "") -> None:
    """A sheet of images (N, 1, H, W) with values in [-1, 1]."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.full((rows * (h + 1), columns * (w + 1)), 1.0)
    for k, image in enumerate(images.detach().clamp(-1, 1)):
        top, left = (k // columns) * (h + 1), (k % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = image[0]
    ax.imshow(sheet[:-1, :-1], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_title(title)


def film(
    states: Sequence[Sequence[Tensor]],
    titles: Sequence[str],
    captions: Sequence[str],
    log_density: Callable[[Tensor], Tensor] | None = None,
    view: float = VIEW,
    milliseconds: int = 120,
) -> Image:
    """A film of points, in panels side by side, as an animated PNG that any browser plays.

    Args:
        states: for each panel, the points (N, 2) at each moment.
        titles: of the panels.
        captions: of the moments.
        log_density: is shaded behind the points of every panel.
        view: half the side of what is drawn.
        milliseconds: a moment lasts; the last one stays for a second and a half.
    """
    from PIL import Image as Picture

    axes = panels(len(states), 2.6)
    figure = axes[0].figure
    dots = []
    for ax, moments, title in zip(axes, states, titles, strict=True):
        if log_density is not None:
            density(ax, log_density, view)
        ax.set(xlim=(-view, view), ylim=(-view, view), title=title)
        dots.append(ax.scatter(*moments[0].T, s=3, color=ORANGE, linewidths=0))
    frames = []
    for k, caption in enumerate(captions):
        for dot, moments in zip(dots, states, strict=True):
            dot.set_offsets(moments[k].detach().numpy())
        figure.supxlabel(caption, fontsize=9)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=60)
        frames.append(Picture.open(file).convert("RGB"))
    plt.close(figure)
    palette = Picture.fromarray(np.hstack([frames[0], frames[-1]])).quantize(24)
    frames = [frame.quantize(palette=palette, dither=Picture.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    lasts = [milliseconds] * (len(frames) - 1) + [1500]
    frames[0].save(
        file, "PNG", save_all=True, append_images=frames[1:], duration=lasts, loop=0, optimize=True
    )
    return Image(data=file.getvalue(), format="png")

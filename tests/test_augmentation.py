"""Augmentation: what it does to images, what it says of it, and that it does not leak."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from conftest import TINY
from test_training import make_state
from torch import nn
from torch.nn.functional import pad

from configs.edm import digits
from score_sde import checkpoints
from score_sde.checkpoints import release_2021
from score_sde.commands import cli
from score_sde.commands import train as training_run
from score_sde.commands.weights import network_options
from score_sde.config.build import build_network
from score_sde.config.check import check_config
from score_sde.networks.table import NETWORKS
from score_sde.objectives import ScoreMatching
from score_sde.sde import VPSDE
from score_sde.training import Augmentation, TrainStep
from score_sde.training.augmentation import PARAMETERS, affine_map, warp

IMAGES = torch.randn(5, 3, 7, 10, generator=torch.Generator().manual_seed(0))


def parameters(**values: float) -> torch.Tensor:
    """Of one image: mirrored right and down, a, angle, b, phi, moves right and down."""
    row = torch.zeros(1, PARAMETERS, dtype=torch.float64)
    row[0, 0], row[0, 1] = values.get("left", 0), values.get("top", 0)
    row[0, 2] = values.get("a", 0)
    angle, phi = values.get("angle", 0.0), values.get("phi", 0.0)
    row[0, 3], row[0, 4] = math.cos(angle) - 1, math.sin(angle)
    row[0, 5] = values.get("b", 0) * math.cos(phi)
    row[0, 6] = values.get("b", 0) * math.sin(phi)
    row[0, 7], row[0, 8] = values.get("right", 0), values.get("down", 0)
    return row


def moved(x: torch.Tensor, **values: float) -> torch.Tensor:
    given = parameters(**values).expand(len(x), -1).to(x.dtype)
    return warp(x, *affine_map(given, x.shape[-2:]))


def blob(side: int, at: tuple[float, float] = (0, 0), width: float = 0.1) -> torch.Tensor:
    """A Gaussian of relative width on a square image, at a place in shares of the side."""
    line = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / side
    right, down = (line - at[0]) ** 2, (line - at[1]) ** 2
    return torch.exp(-(right[None, :] + down[:, None]) / (2 * width**2))[None, None]


# ---- Images ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_image_that_nothing_happens_to_is_as_it_was_bit_for_bit(dtype, layout):
    x = IMAGES.to(dtype).contiguous(memory_format=layout)
    result, said = Augmentation(0.0)(x, torch.Generator().manual_seed(1))
    assert torch.equal(result, x)
    assert result.stride() == x.stride()
    assert torch.equal(said, torch.zeros(5, PARAMETERS, dtype=dtype))


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, -2), (3, 1), (-4, 2), (9, -6)])
def test_a_move_by_whole_pixels_is_exact_and_reflects_at_the_border(right, down):
    height, width = IMAGES.shape[-2:]
    result = moved(IMAGES, right=right * 8 / width, down=down * 8 / height)
    sides = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    wide = pad(IMAGES, sides, mode="reflect")
    top, left = max(-down, 0), max(-right, 0)
    assert torch.equal(result, wide[..., top : top + height, left : left + width])
    inside = IMAGES.roll((down, right), (-2, -1))
    rows = slice(max(down, 0), height + min(down, 0))
    columns = slice(max(right, 0), width + min(right, 0))
    assert torch.equal(result[..., rows, columns], inside[..., rows, columns])


def test_mirrors_are_exact():
    assert torch.equal(moved(IMAGES, left=1), IMAGES.flip(-1))
    assert torch.equal(moved(IMAGES, top=1), IMAGES.flip(-2))


def test_a_quarter_turn_is_one():
    x = IMAGES[..., :7]
    torch.testing.assert_close(moved(x, angle=math.pi / 2), x.rot90(-1, (-2, -1)))
    torch.testing.assert_close(moved(x, angle=math.pi), x.rot90(2, (-2, -1)))


def test_the_inverse_map_takes_a_smooth_image_back():
    x = blob(48, (0.05, -0.08))
    given = parameters(angle=0.7, a=0.8, b=0.6, phi=2.0, right=0.3, down=-0.4, left=1)
    matrix, move = affine_map(given, x.shape[-2:])
    inverse = torch.linalg.inv(matrix)
    back = warp(warp(x, matrix, move), inverse, -(inverse @ move[..., None])[..., 0])
    middle = slice(16, 32)  # what does not leave the image on its way
    assert (warp(x, matrix, move) - x).abs().max() > 0.3
    assert (back - x)[..., middle, middle].abs().max() < 5e-3


def test_between_pixels_the_error_falls_with_the_third_power_of_their_size():
    errors = []
    for side in (16, 32, 64):
        # A third of a pixel, in eighths of a side.
        shift = 1 / 3 / side
        result = moved(blob(side), right=8 * shift)
        errors.append((result - blob(side, (shift, 0))).abs().max().item())
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 2.7


@pytest.mark.parametrize(
    "values",
    [
        {"right": 0.7},
        {"down": -0.5},
        {"angle": 1.1},
        {"a": -1.5},
        {"b": 1.5, "phi": 0.9},
        {"left": 1.0, "angle": 0.5},
        {"angle": -2.0, "a": 0.5, "b": -0.7, "phi": 2.5, "right": 0.2, "down": 0.3, "top": 1.0},
    ],
)
def test_what_is_said_is_what_was_done(values):
    # A point of light, followed through the movements one by one.
    side, place = 64, (0.12, -0.05)
    image = moved(blob(side, place, 0.05), **values)[0, 0]
    right, down = place
    if values.get("left"):
        right = -right
    if values.get("top"):
        down = -down
    b, axis = values.get("b", 0), values.get("phi", 0) / 2
    along = right * math.cos(axis) + down * math.sin(axis)
    across = -right * math.sin(axis) + down * math.cos(axis)
    along, across = along * 2 ** (b / 5), across * 2 ** (-b / 5)
    right = along * math.cos(axis) - across * math.sin(axis)
    down = along * math.sin(axis) + across * math.cos(axis)
    scale, angle = 2 ** (values.get("a", 0) / 5), values.get("angle", 0)
    right, down = (
        scale * (right * math.cos(angle) - down * math.sin(angle)),
        scale * (right * math.sin(angle) + down * math.cos(angle)),
    )
    right, down = right + values.get("right", 0) / 8, down + values.get("down", 0) / 8
    line = (torch.arange(side) - (side - 1) / 2) / side
    total = image.sum()
    assert (image.sum(0) @ line.double() / total).item() == pytest.approx(right, abs=2e-4)
    assert (image.sum(1) @ line.double() / total).item() == pytest.approx(down, abs=2e-4)
    # The light grows with the area.
    assert (total / blob(side, place, 0.05).sum()).item() == pytest.approx(scale**2, rel=2e-3)


# ---- Draws ----


def test_each_kind_happens_with_the_probability_and_has_its_law():
    n, p = 40_000, 0.3
    said = Augmentation(p).draw(n, (16, 32), generator=torch.Generator().manual_seed(2)).double()
    error = 4 * 0.5 / n**0.5
    for k, frequency in ((0, p / 2), (1, p / 2), (2, p), (4, p), (5, p), (6, p)):
        assert abs((said[:, k] != 0).double().mean() - frequency) < error
    # Moves by whole pixels (0 among them) and by fractions.
    pixels = said[:, 7:] * torch.tensor([4.0, 2.0])
    whole = (pixels - pixels.round()).abs() < 1e-4
    assert abs((~whole).double().mean() - p) < error
    only = pixels[:, 0][whole[:, 0] & (pixels[:, 0] != 0)].round()
    assert set(only.tolist()) == {-4, -3, -2, -1, 1, 2, 3, 4}
    assert abs(len(only) / n - p * (1 - p) * 8 / 9) < error
    a = said[:, 2][said[:, 2] != 0]
    assert abs(a.mean()) < 4 / len(a) ** 0.5
    assert abs(a.std() - 1) < 4 / (2 * len(a)) ** 0.5
    angles = torch.atan2(said[:, 4], said[:, 3] + 1)[said[:, 4] != 0]
    assert abs(angles.std() - math.pi / 3**0.5) < 0.05
    assert angles.abs().max() <= math.pi
    torch.testing.assert_close(
        (said[:, 3] + 1) ** 2 + said[:, 4] ** 2, torch.ones(n).double(), rtol=0, atol=1e-6
    )
    # Kinds happen by themselves: no two of them together more often than by chance.
    happened = (said[:, [0, 2, 4, 5]] != 0).double()
    assert (torch.corrcoef(happened.T) - torch.eye(4)).abs().max() < 4 / n**0.5


def test_mirrors_may_have_a_probability_of_their_own_and_leave_the_rest_as_it_was():
    n, p = 40_000, 0.12

    def draw(*probabilities):
        generator = torch.Generator().manual_seed(2)
        return Augmentation(*probabilities).draw(n, (16, 32), generator=generator)

    said, less = draw(p, 1.0), draw(p)
    error = 4 * 0.5 / n**0.5
    assert abs(said[:, 0].mean() - 0.5) < error  # half of the images, left to right
    assert abs(said[:, 1].mean() - p / 2) < error
    assert torch.equal(said[:, 1:], less[:, 1:])
    assert (said[:, 0] >= less[:, 0]).all()
    assert torch.equal(draw(p, 0.05), less)  # never fewer than of the other kinds
    with pytest.raises(ValueError, match=r"mirror=1.5: give a number from 0 to 1"):
        Augmentation(p, 1.5)


def test_draws_follow_their_generator():
    def draw(seed):
        return Augmentation(0.5)(IMAGES, torch.Generator().manual_seed(seed))

    assert all(torch.equal(*pair) for pair in zip(draw(1), draw(1), strict=True))
    assert not torch.equal(draw(1)[0], draw(2)[0])
    torch.manual_seed(1)
    assert torch.equal(Augmentation(0.5)(IMAGES)[0], draw(1)[0])
    with pytest.raises(ValueError, match="a number from 0 to 1"):
        Augmentation(1.5)


# ---- Networks ----


def small(**fields):
    config = digits.get_config()
    config.device = "cpu"
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=())
    config.training.update(fields)
    return config


def test_a_network_that_is_told_of_it_has_one_matrix_more_which_is_silent_at_zeros():
    torch.manual_seed(0)
    plain = build_network(small()).eval()
    told = build_network(small(augment=0.1)).eval()
    names = list(told.state_dict())
    names.remove("conditioning.augment.weight")
    assert names == list(plain.state_dict())
    assert plain.inputs == ()
    assert told.inputs == ("augment",)
    told.load_state_dict(plain.state_dict(), strict=False)
    nn.init.normal_(told.head.conv.weight)  # which begins at 0
    plain.head.load_state_dict(told.head.state_dict())
    x, cond = torch.randn(3, 1, 8, 8), torch.tensor([3.0, -20.0, 100.0])
    as_it_is = told(x, cond)
    assert torch.equal(as_it_is, plain(x, cond))
    assert torch.equal(as_it_is, told(x, cond, augment=torch.zeros(3, PARAMETERS)))
    assert (as_it_is - told(x, cond, augment=torch.ones(3, PARAMETERS))).abs().max() > 1e-5
    with pytest.raises(ValueError, match="set augment_dim"):
        plain(x, cond, augment=torch.zeros(3, PARAMETERS))


def test_what_is_not_told_of_it_is_refused(monkeypatch):
    config = small(augment=0.1)
    check_config(config)
    config.model.conditional = False
    with pytest.raises(ValueError, match="set conditional=True"):
        check_config(config)
    monkeypatch.setitem(NETWORKS, "mine", lambda model, shape: nn.Conv2d(1, 1, 1))
    config = small(augment=0.1)
    config.model.name = "mine"
    with pytest.raises(ValueError, match=r"augment=0\.1: .*'mine' is not told") as error:
        check_config(config)
    assert "\n" not in str(error.value)
    config.training.augment = 0.0
    check_config(config)


# ---- Training ----


class Told(nn.Module):
    """Notes what it is given."""

    inputs = ("augment",)

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(1)), []

    def forward(self, x, cond, label=None, augment=None):
        self.seen.append(augment)
        return self.weight * x + augment.sum(1)[:, None, None, None]


def test_a_step_moves_images_and_tells_the_network_in_parts_as_in_one():
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    records, told = [], []
    for parts in (1, 3):
        state = make_state(net := Told())
        generator = torch.Generator().manual_seed(4)
        step = TrainStep(
            ScoreMatching(VPSDE()),
            lr=1e-3,
            accumulation=parts,
            augmentation=Augmentation(0.7),
            generator=generator,
        )
        records.append(step(state, x))
        told.append(torch.cat(net.seen))
    expected, said = Augmentation(0.7)(x, torch.Generator().manual_seed(4))
    assert not torch.equal(expected, x)
    for one in told:
        assert torch.equal(one, said)
    torch.testing.assert_close(records[0].losses, records[1].losses)


def command(mode: str, workdir: Path, *words: object) -> int:
    given = (f"--mode={mode}", f"--workdir={workdir}", *map(str, words))
    return cli.main(["main.py", "--config=configs/edm/digits.py", *TINY, *given])


def train(workdir: Path, steps: int) -> int:
    words = ("--config.training.augment=0.5", "--config.training.average_freq=2")
    return command("train", workdir, f"--config.training.n_iters={steps}", *words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert train(workdir, 8) == 0
    return workdir


def test_a_run_with_augmentation_and_averages_resumes_bit_for_bit(trained, tmp_path, monkeypatch):
    save = checkpoints.save

    def killed(folder, state, **options):
        save(folder, state, **options)
        if state["step"] == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run.checkpoints, "save", killed)
        assert train(tmp_path, 8) == 130
    assert train(tmp_path, 8) == 0
    for folder, step in (("checkpoints", 8), ("averages", 8), ("averages", 6)):
        one, other = (
            torch.load(checkpoints.path_of(workdir / folder, step), weights_only=True)
            for workdir in (trained, tmp_path)
        )
        for entry in ("network", "ema", "optimizer", "averages"):
            torch.testing.assert_close(one.get(entry), other.get(entry), rtol=0, atol=0)


def test_images_are_drawn_without_being_told_of_it(trained, tmp_path):
    drawn = (f"--output={tmp_path / 'images'}", "--num_samples=2", "--config.sampling.num_steps=2")
    assert command("sample", trained, *drawn) == 0


def test_formats_without_augmentation_refuse_its_network(tmp_path):
    config = cli.parse(
        ["main.py", "--config=vp/digits", "--mode=train", "--config.training.augment=0.1"]
    ).config
    network = build_network(config)
    with pytest.raises(ValueError, match="augment"):
        release_2021.dump(network)
    with pytest.raises(ValueError, match="augment"):
        checkpoints.save_folder(
            tmp_path / "folder", network.state_dict(), network, network_options(config)
        )
    assert not (tmp_path / "folder").exists()

"""Inpainting and colourisation: the reference numbers, the release's faults, closed forms."""

import math
from dataclasses import dataclass

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, SDES, Gaussian, make_sde
from recorded import AnalyticNet, Bank, golden_rows

from controllable_generation import get_pc_colorizer, get_pc_inpainter
from score_sde.noise import torch_noise
from score_sde.samplers import GridSampler
from score_sde.samplers.completion import (
    COLOUR_BASIS,
    MASKS,
    Replacement,
    complete,
    known_gray,
    known_pixels,
    rotate,
)
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import AncestralSamplingPredictor, ReverseDiffusionPredictor
from score_sde.tensor_ops import expand_to

SCALERS = {"identity": lambda x: x, "centered": lambda x: (x + 1) / 2}


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Setting:
    """A row of the reference, ready to be run."""

    def __init__(self, golden, row):
        self.row, self.arrays, self.sde = row, golden.arrays("controllable"), make_sde(row["sde"])
        self.scaler = SCALERS[row["scaler"]]
        self.net = AnalyticNet(self.sde, self.arrays["mu"], row["continuous"])
        self.inputs = [self.arrays[name] for name in ("data", "mask")]
        if row["task"] == "colorize":
            self.inputs = [self.arrays["gray"]]

    def run(self, inputs=None, **options):
        row = self.row
        make = {"inpaint": get_pc_inpainter, "colorize": get_pc_colorizer}[row["task"]]
        self.bank = Bank(self.arrays["bank"])
        draw = make(
            self.sde,
            row["predictor"],
            row["corrector"],
            self.scaler,
            row["snr"],
            n_steps=row["n_steps"],
            probability_flow=row["probability_flow"],
            continuous=row["continuous"],
            eps=row["eps"],
            noise=self.bank,
            **options,
        )
        return draw(self.net, *(self.inputs if inputs is None else inputs))

    def free(self, images):
        """The coordinates that were not known; in the network's range up to scale and shift."""
        if self.row["task"] == "inpaint":
            return images[(self.arrays["mask"] == 0).expand_as(images)]
        return rotate(images, COLOUR_BASIS.float())[:, 1:]

    def kept(self, images):
        if self.row["task"] == "inpaint":
            return images[(self.arrays["mask"] == 1).expand_as(images)]
        return rotate(images, COLOUR_BASIS.float())[:, :1]


rows = pytest.mark.parametrize("row", golden_rows("controllable"))


@rows
@pytest.mark.parametrize("denoise", [True, False])
def test_parity_repeats_the_reference_with_its_faults(golden, row, denoise):
    setting = Setting(golden, row)
    images = setting.run(denoise=denoise, parity=True)
    assert_close(images, setting.arrays[f"{row['key']}/denoise{int(denoise)}"], 1e-4)
    assert setting.bank.used == row["n_draws"]
    assert setting.net.calls == row["network_calls"]


@rows
def test_without_parity_only_the_faults_are_mended(golden, row):
    setting = Setting(golden, row)
    expected = {k: setting.arrays[f"{row['key']}/denoise{k}"] for k in (0, 1)}
    noisy, clean = setting.run(denoise=False), setting.run(denoise=True)
    assert setting.bank.used == row["n_draws"]
    if row["task"] == "inpaint":  # the colouriser begins elsewhere, so that its path is another
        assert_close(noisy, expected[0], 1e-4)
    assert_close(setting.kept(clean), setting.kept(expected[1]), 1e-4)
    assert_close(setting.kept(noisy), setting.kept(expected[0]), 1e-4)
    # Free coordinates lose exactly the noise that the last predictor step added.
    step = setting.arrays["bank"][row["n_draws"] - 2]
    slope = setting.scaler(torch.ones(1)) - setting.scaler(torch.zeros(1))
    noise = setting.free(noisy - clean) / slope
    added = setting.free(step)
    factor = (noise * added).sum() / added.square().sum()
    last = torch.full((1,), row["eps"])
    size = setting.sde.discretize(torch.zeros(1, 1), last)[1]
    if row["predictor"] == "ancestral_sampling":
        size = torch.zeros(1)  # SMLD's last step arrives at no noise
    assert factor.item() == pytest.approx(size.item(), rel=1e-3, abs=1e-6)
    assert (noise - factor * added).abs().max() < 1e-5 * noisy.abs().max()


def test_the_fault_is_visible_in_the_release(golden):
    setting = Setting(golden, golden_rows("controllable")[0].values[0])
    both = [setting.run(denoise=denoise, parity=True) for denoise in (True, False)]
    assert torch.equal(*map(setting.free, both))


@pytest.mark.parametrize("task", ["inpaint", "colorize"])
def test_what_is_hidden_never_influences_the_result(golden, task):
    first = next(row for row in golden_rows("controllable") if row.values[0]["task"] == task)
    setting = Setting(golden, first.values[0])
    expected = setting.run()
    if task == "inpaint":
        data, mask = setting.inputs
        for hidden in (math.nan, math.inf, 1e30):
            assert torch.equal(setting.run([torch.where(mask == 1, data, hidden), mask]), expected)
        assert torch.equal(setting.run([data, mask.bool()]), expected)
        assert torch.equal(setting.run([data, mask[:, :1]]), expected)
    else:
        (gray,) = setting.inputs
        colours = rotate(seeded(*gray.shape), COLOUR_BASIS.float())
        colours[:, 0] = 0
        coloured = gray + rotate(colours, COLOUR_BASIS.float().T)
        assert_close(setting.run([coloured]), expected, 1e-5)
        assert not torch.allclose(setting.run([gray + 0.5]), expected, atol=1e-2)


@pytest.mark.parametrize("parity", [True, False])
def test_the_priors_noise_stays_out_of_the_grey_component(parity):
    starts = []

    class Net(torch.nn.Module):
        def forward(self, x, c):
            starts.append(x)
            return torch.zeros_like(x)

    gray = seeded(2, 1, 4, 4).expand(2, 3, 4, 4)
    sde = VESDE(sigma_max=50.0, N=2)
    torch.manual_seed(0)
    # The predictor sees what the prior became after one "corrector": grey at sigma_max.
    draw = get_pc_colorizer(sde, "none", "langevin", abs, 0.1, continuous=True, parity=parity)
    draw(Net(), gray)
    grey = rotate(starts[0], COLOUR_BASIS.float())[:, 0]
    clean = gray[:, 0] * math.sqrt(3)
    assert ((grey - clean).std() > 10) if parity else torch.allclose(grey, clean, atol=2e-5)
    assert rotate(starts[0], COLOUR_BASIS.float())[:, 1:].std() > 10


def test_the_colour_basis_is_orthonormal_with_grey_first(golden):
    eye = torch.eye(3, dtype=torch.float64)
    assert_close(COLOUR_BASIS.T @ COLOUR_BASIS, eye, 1e-15)
    assert_close(COLOUR_BASIS[:, 0], torch.full((3,), 3**-0.5, dtype=torch.float64), 1e-15)
    assert_close(
        COLOUR_BASIS, torch.tensor(golden.json("controllable")["colour_matrix_M"]).double(), 1e-6
    )
    x = seeded(2, 3, 4, 5).double()
    assert_close(rotate(x, COLOUR_BASIS), torch.einsum("bihw,ij->bjhw", x, COLOUR_BASIS), 1e-14)
    assert_close(rotate(rotate(x, COLOUR_BASIS), COLOUR_BASIS.T), x, 1e-14)


# ---- Our own completions ----


@dataclass
class Correlated:
    """Pairs of pixels: N(0, 1) each, correlated by rho. Images are (B, 1, 1, 2)."""

    sde: SDE
    rho: float = 0.8

    def score(self, x, t):
        alpha, sigma = self.sde.mean_scale(t), self.sde.std(t)
        a, b = alpha**2 + sigma**2, alpha**2 * self.rho
        p, q = x[..., 0], x[..., 1]
        a, b = expand_to(a, p), expand_to(b, p)
        return torch.stack([b * q - a * p, b * p - a * q], dim=-1) / (a**2 - b**2)[..., None]


def steps_of(sde, corrector_steps):
    times = time_grid(sde, 20, "uniform", 1e-3)
    corrector = LangevinCorrector(sde, 0.16, corrector_steps, "sample")
    return GridSampler(sde, times, AncestralSamplingPredictor(sde), corrector)


@pytest.mark.parametrize(("kind", "snr"), [("vp", 0.2), ("ve", 0.1)])
def test_completions_have_the_conditional_distribution_where_a_corrector_mixes(kind, snr):
    sde, many, few = SDES[kind](), 2000, 500
    data, mask = Correlated(sde), torch.tensor([True, False])
    given = seeded(many, 1, 1, 1, seed=3) * torch.tensor([1.0, math.nan])

    def hidden_by_known(corrector, n):
        predictor = AncestralSamplingPredictor(sde)
        (done,) = complete(
            GridSampler(sde, time_grid(sde, 300, "uniform", 1e-3), predictor, corrector),
            lambda row: data.score,
            lambda row: known_pixels(given[row], mask),
            torch.arange(n),
            (1, 1, 2),
            seed=0,
            batch_size=n,
            device="cpu",
        )
        known, drawn = done.x[..., 0].flatten(), done.x[..., 1].flatten()
        assert torch.equal(known, given[:n, ..., 0].flatten())
        slope = (known * drawn).mean() / known.square().mean()
        return slope.item(), (drawn - data.rho * known).std().item()

    slope, spread = hidden_by_known(LangevinCorrector(sde, snr, 1, "batch"), many)
    assert slope == pytest.approx(data.rho, abs=0.03)
    assert spread == pytest.approx(math.sqrt(1 - data.rho**2), rel=0.04)
    # A predictor alone moves what is known away before it is put back: too little is inferred.
    assert hidden_by_known(None, few)[0] < 0.75 * data.rho


@pytest.mark.parametrize("method", ["pc", *FEW_STEP])
@pytest.mark.parametrize("kind", [*SDES, "karras", "straight"])
def test_what_is_known_comes_back_as_given(kind, method):
    sde = ALL_SDES[kind](N=20)
    step = AncestralSamplingPredictor(sde) if method == "pc" else FEW_STEP[method](sde)
    sampler = GridSampler(sde, time_grid(sde, 20, step.grid, 1e-3), step, tweedie=method != "pc")
    image, score = seeded(2, 3, 8, 8), Gaussian(sde, 0.3, 0.25).score
    mask = MASKS["middle"](8, 8, 0)
    for known in (known_pixels(image, mask), known_gray(image)):
        parts = complete(
            sampler,
            lambda row: score,
            lambda row, known=known: known.of(row % 2),
            torch.arange(5),
            (3, 8, 8),
            seed=0,
            batch_size=2,
            device="cpu",
        )
        x = torch.cat([part.x for part in parts])
        all_known = known.of(torch.arange(5) % 2)
        assert_close(x, all_known.put(x, all_known.value), 1e-6)
        assert not torch.allclose(x[0], x[2])  # another completion of the same image


def test_a_completion_does_not_depend_on_its_batch():
    sde = VPSDE(N=20)
    score, image = Gaussian(sde, 0.3, 0.25).score, seeded(6, 1, 4, 4)

    def drawn(batch_size):
        parts = complete(
            steps_of(sde, 1),
            lambda row: score,
            lambda row: known_pixels(image[row], MASKS["left"](4, 4, 0)),
            torch.arange(6),
            (1, 4, 4),
            seed=1,
            batch_size=batch_size,
            device="cpu",
        )
        return torch.cat([part.x for part in parts])

    assert_close(drawn(1), drawn(6), 1e-5)
    assert_close(drawn(4), drawn(6), 1e-5)


@pytest.mark.parametrize("kind", ALL_SDES)
def test_the_known_part_has_the_noise_of_the_samples_own_time(kind):
    sde = ALL_SDES[kind](N=10)
    image = torch.full((4000, 1, 1, 2), 0.7)
    known = known_pixels(image, torch.tensor([True, False]))
    t, later = torch.full((4000,), 0.3), torch.full((4000,), 0.6)
    torch.manual_seed(0)
    for as_released, level in ((False, t), (True, later)):
        keep = Replacement(sde, known, torch_noise(), as_released=as_released)
        x, x_mean = keep(torch.zeros(4000, 1, 1, 2), torch.ones(4000, 1, 1, 2), later, t)
        mean, std = sde.marginal_prob(image, level)
        spread = (x - mean)[..., 0] / std[0]
        assert spread.mean().item() == pytest.approx(0, abs=0.06)
        assert spread.std().item() == pytest.approx(1, rel=0.05)
        assert torch.equal(x_mean[..., 0], mean[..., 0])
        assert (x[..., 1] == 0).all()
        assert (x_mean[..., 1] == 1).all()
    x, x_mean = Replacement(sde, known, torch_noise())(image * 0, image * 0, t, None)
    assert torch.equal(x, x_mean)
    assert torch.equal(x[..., 0], image[..., 0])


def test_masks_hide_what_their_names_say():
    hidden = {name: ~make(8, 6, 0) for name, make in MASKS.items()}
    rows, columns = torch.arange(8)[:, None], torch.arange(6)
    inside = ((rows >= 2) & (rows < 6)) & ((columns >= 1) & (columns < 5))
    assert torch.equal(hidden["middle"], inside)
    assert torch.equal(hidden["top"], (rows < 4).expand(8, 6))
    assert torch.equal(hidden["bottom"], (rows >= 4).expand(8, 6))
    assert torch.equal(hidden["left"], (columns < 3).expand(8, 6))
    assert torch.equal(hidden["right"], (columns >= 3).expand(8, 6))
    many = MASKS["scattered"](100, 100, 5)
    assert (~many).double().mean().item() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(many, MASKS["scattered"](100, 100, 5))


def test_what_cannot_be_completed_is_refused_with_the_remedy():
    image = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"values from 0 to 255: give 1 for known"):
        known_pixels(image, torch.tensor([0.0, 255.0])[:, None].expand(2, 4))
    with pytest.raises(ValueError, match=r"shape \(5, 4\) .* such as \(B, 1, H, W\)"):
        known_pixels(image, torch.ones(5, 4))
    for known in (known_gray, lambda x: known_pixels(x, torch.ones(4, 4))):
        with pytest.raises(ValueError, match=r"images of torch\.uint8: scale them"):
            known(image.to(torch.uint8))
    with pytest.raises(ValueError, match=r"say what its first axis counts"):
        known_pixels(torch.zeros(3, 3, 4, 4), torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="repeated in each channel"):
        known_gray(image[:, :1])
    sde = VPSDE(N=4)
    with pytest.raises(ValueError, match="did you mean 'reverse_diffusion'"):
        get_pc_inpainter(sde, "revers_diffusion", "none", abs, 0.1)
    # The class may be given too, and None for none.
    get_pc_inpainter(sde, ReverseDiffusionPredictor, None, abs, 0.1)

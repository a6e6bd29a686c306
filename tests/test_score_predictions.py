"""What networks may put out: conversions, labels, exact scores through each, and losses."""

import json
import math

import pytest
import torch
from conftest import TINY, assert_close
from problems import SDES

from score_sde.commands import cli
from score_sde.config import changes, history
from score_sde.config.build import build_objective, build_score, build_sde
from score_sde.config.check import check_config
from score_sde.objectives import PredictionLoss, ScoreMatching, make_objective
from score_sde.score import PREDICTIONS, Affine, NetworkScore, Scales, parameterisation
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.tensor_ops import expand_to


class Straight(SDE):
    """The straight path of flow matching, by α and σ alone, up to where its drift is finite."""

    name, T = "straight", 1 - 1e-3

    def mean_scale(self, t):
        return 1 - t

    def std(self, t):
        return t


class Karras(SDE):
    """Noise levels as times."""

    name, T, prior_std, network_output = "karras", 80.0, 80.0, "score"

    def mean_scale(self, t):
        return torch.ones_like(t)

    def std(self, t):
        return t.clone()


ALL = SDES | {"straight": lambda: Straight(1000), "karras": lambda: Karras(1000)}
MEAN, STD = 0.3, 0.6  # of the data N(MEAN, STD²)
S = 0.5  # sigma_data


@pytest.fixture(params=ALL)
def sde(request):
    return ALL[request.param]()


@pytest.fixture(params=PREDICTIONS)
def prediction(request):
    return request.param


def rates(sde, t):
    """α' and σ', by differentiation."""
    t = t.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = sde.mean_scale(t), sde.std(t)
        return [
            torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)
            for value in values
        ]


def papers_target(prediction, sde, t):
    """p and q of F* = p x_0 + q z, as the papers write them; Karras' table 1 for EDM."""
    alpha, sigma = sde.mean_scale(t), sde.std(t)
    level, zero = sigma / alpha, torch.zeros_like(t)
    alpha_rate, sigma_rate = rates(sde, t)
    c_skip, c_out = S**2 / (level**2 + S**2), level * S / (level**2 + S**2).sqrt()
    return {
        "score": (zero, -1 / sigma),
        "noise": (zero, zero + 1),
        "denoised": (zero + 1, zero),
        "v": (-sigma, alpha),
        "velocity": (alpha_rate, sigma_rate),
        "edm": ((1 - c_skip) / c_out, -c_skip * level / c_out),
    }[prediction]


def moments(alpha, sigma, x):
    """E[x_0 | x] and E[z | x] of the Gaussian."""
    alpha, sigma = expand_to(alpha, x), expand_to(sigma, x)
    score = -(x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    return MEAN - alpha * STD**2 * score, -sigma * score


def exact_output(prediction, sde, t, x):
    """E[F* | x] of the Gaussian."""
    p, q = (expand_to(v, x) for v in papers_target(prediction, sde, t))
    x_0, z = moments(sde.mean_scale(t), sde.std(t), x)
    return p * x_0 + q * z


# ---- Conversions ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conversions_lose_rounding_times_the_noise_level_at_most(sde, prediction, dtype):
    t = torch.linspace(math.log(1e-5), math.log(sde.T), 400, dtype=dtype).exp().clamp_max(sde.T)
    draw = torch.Generator().manual_seed(0)
    x_0, z = torch.randn(2, len(t), 50, generator=draw, dtype=torch.float64).to(dtype)
    alpha, sigma = sde.mean_scale(t)[:, None], sde.std(t)[:, None]
    x, level = alpha * x_0 + sigma * z, sigma / alpha
    read, at = PREDICTIONS[prediction](S), Scales(sde, t)
    output = read.target(at, x_0, z)
    rounding = torch.finfo(dtype).eps  # of numbers up to 4, by a few operations
    for way, truth, bound in (
        (read.denoised(at), x_0, 1 + level),
        (read.noise(at), z, 1 + 1 / level),
        (read.score(at), -z / sigma, (1 + 1 / level) / sigma),
    ):
        value = way(x, output)
        assert ((value - truth).abs() <= 8 * rounding * bound).all()
        # There and back: the same, in units of what an error of the output makes of it.
        again = way(x, way.solve(x, value))
        assert ((again - value).abs() <= 2 * rounding * bound).all()
        if dtype == torch.float64:
            usual = ((level > 1e-2) & (level < 1e2)).expand_as(value)
            assert ((again - value).abs() / (1 + value.abs()))[usual].max() < 1e-12


@pytest.mark.parametrize("way", ["score", "noise", "denoised"])
def test_what_a_network_puts_out_comes_back_as_it_is(sde, way):
    t = torch.linspace(1e-3, 1, 9) * sde.T
    x, output = torch.randn(2, 9, 3)
    read = parameterisation(sde, prediction=way)
    assert torch.equal(getattr(read, way)(t)(x, output), output)


def test_targets_are_the_papers(sde, prediction):
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64) * sde.T
    x_0, z = torch.randn(2, 7, 3, dtype=torch.float64)
    p, q = papers_target(prediction, sde, t)
    target = PREDICTIONS[prediction](S).target(Scales(sde, t), x_0, z)
    torch.testing.assert_close(target, p[:, None] * x_0 + q[:, None] * z, rtol=1e-10, atol=1e-12)


def test_edm_is_karras_preconditioning(sde):
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64) * sde.T
    x = torch.randn(7, 3, dtype=torch.float64)
    seen = {}

    def net(c_in_y, cond):
        seen["input"], seen["cond"] = c_in_y, cond
        return torch.sin(c_in_y)

    read = parameterisation(sde, prediction="edm", takes="number", sigma_data=S)
    denoised = NetworkScore(net, sde, parameterisation=read).denoised(x, t)
    level = sde.noise_level(t)[:, None]
    y, total = x / sde.mean_scale(t)[:, None], (level**2 + S**2).sqrt()
    torch.testing.assert_close(seen["input"], y / total)
    torch.testing.assert_close(seen["cond"], 400 * level[:, 0].log() / 4)
    expected = S**2 / total**2 * y + level * S / total * torch.sin(y / total)
    torch.testing.assert_close(denoised, expected)


# ---- Exact networks ----


def exact_network(prediction, sde, takes):
    """net(x, cond) for continuous times that puts out E[F* | x], with t read off cond."""

    def net(x, cond):
        if takes == "sigma":
            t = sde.time_of_noise_level(cond)
        elif prediction == "edm" or sde.network_output == "score":
            t = sde.time_of_noise_level((cond / 100).exp())
        else:
            t = cond / 999 * sde.T
        if prediction == "edm":
            alpha, sigma = sde.mean_scale(t), sde.std(t)
            x = x * expand_to((sigma**2 + S**2 * alpha**2).sqrt(), x)
        return exact_output(prediction, sde, t, x)

    return net


@pytest.mark.parametrize("takes", ["sigma", "number"])
def test_every_prediction_stands_for_the_score(sde, prediction, takes):
    t = torch.linspace(0.05, 1, 9, dtype=torch.float64) * sde.T
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    read = parameterisation(sde, prediction=prediction, takes=takes, sigma_data=S)
    net = NetworkScore(exact_network(prediction, sde, takes), sde, parameterisation=read)
    alpha, sigma = expand_to(sde.mean_scale(t), x), expand_to(sde.std(t), x)
    x_0, z = moments(sde.mean_scale(t), sde.std(t), x)
    score = -(x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    torch.testing.assert_close(net(x, t), score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net.noise(x, t), z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net.denoised(x, t), x_0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [VESDE, VPSDE])
@pytest.mark.parametrize("prediction", ["score", "noise", "denoised", "v"])
def test_on_a_chain_a_prediction_has_the_scales_of_its_steps(kind, prediction):
    sde = kind(N=50)
    alphas, sigmas = (table.double() for table in sde.chain_scales())
    x, steps = torch.randn(50, 3, dtype=torch.float64), torch.arange(50)

    def net(x, cond):
        step = 49 - cond if kind is VESDE else cond.round().long()
        alpha, sigma = alphas[step][:, None], sigmas[step][:, None]
        x_0, z = moments(alphas[step], sigmas[step], x)
        outputs = {"score": -z / sigma, "noise": z, "denoised": x_0, "v": alpha * z - sigma * x_0}
        return outputs[prediction]

    read = parameterisation(sde, continuous=False, prediction=prediction)
    score = NetworkScore(net, sde, parameterisation=read)(x, sde.chain_times())
    alpha, sigma = alphas[:, None], sigmas[:, None]
    expected = -(x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    torch.testing.assert_close(score, expected, rtol=1e-10, atol=1e-10)
    # Training on the chain: labels of the papers, the error of the noise whatever is put out.
    objective = make_objective(sde, continuous=False, parameterisation=read)
    x_0, z = torch.randn(2, 50, 3, dtype=torch.float64)
    labels = steps.flip(0) if kind is VESDE else steps
    loss = objective(net, x_0, labels, z)
    _, expected_z = moments(alphas, sigmas, alpha * x_0 + sigma * z)
    squares = (expected_z - z) ** 2
    torch.testing.assert_close(loss, 0.5 * squares.sum(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prediction", ["velocity", "edm"])
def test_a_chain_refuses_what_needs_continuous_times_by_name(prediction):
    with pytest.raises(ValueError, match=f"model.prediction='{prediction}' needs continuous"):
        parameterisation(VPSDE(), continuous=False, prediction=prediction)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("kind", [VESDE, VPSDE, subVPSDE])
def test_the_papers_conventions_are_what_they_were_bit_for_bit(kind, continuous):
    sde = kind(N=100)
    t = torch.cat([torch.linspace(1e-5, 1, 60), sde.chain_times()[::7].float().clamp_max(1)])
    x, seen = torch.randn(len(t), 3), {}

    def net(x, cond):
        seen["x"], seen["cond"] = x, cond
        return torch.tanh(x)

    score = NetworkScore(net, sde, continuous)
    if kind is VESDE:
        label = sde.std(t) if continuous else (99 - sde.chain_position(t)).round().long()
        factor = torch.ones_like(t)
    elif continuous or kind is subVPSDE:
        label, factor = t * 999 / sde.T, -1 / sde.std(t)
    else:
        label, factor = sde.chain_position(t), -1 / sde.chain_scales()[1][sde.index(t)]
    assert torch.equal(score(x, t), factor[:, None] * torch.tanh(x))
    assert torch.equal(score.output(x, t), torch.tanh(x))
    assert seen["x"] is x
    assert seen["cond"].dtype == label.dtype
    assert torch.equal(seen["cond"], label)
    # Named, and not by the convention, they are the same.
    named = "score" if kind is VESDE else "noise"
    read = parameterisation(sde, continuous, named)
    assert torch.equal(NetworkScore(net, sde, parameterisation=read)(x, t), score(x, t))
    assert torch.equal(seen["cond"], label)


# ---- Losses ----

NODES = torch.tensor([-math.sqrt(3), 0, math.sqrt(3)], dtype=torch.float64)
WEIGHTS = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)


def expected_loss(objective, net, t):
    """The expectation over Gaussian data and noise, exact where the network is linear in x."""
    x_0, z = (grid.reshape(-1, 1) for grid in torch.meshgrid(NODES, NODES, indexing="ij"))
    weight = (WEIGHTS[:, None] * WEIGHTS).reshape(-1)
    losses = objective(net, MEAN + STD * x_0, t.new_full((9,), float(t)), z)
    return (weight * losses).sum()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["auto", "prediction"])
def test_the_exact_network_is_the_minimum_of_each_loss(sde, prediction, name, fraction):
    t = torch.tensor(fraction, dtype=torch.float64) * sde.T
    read = parameterisation(sde, prediction=prediction, sigma_data=S)
    objective = make_objective(sde, objective=name, reduce_mean=True, parameterisation=read)
    exact = exact_network(prediction, sde, "sigma" if sde.network_output == "score" else "number")
    least = expected_loss(objective, exact, t)
    # The variance that x leaves to what is asked for: to the noise, or to the output itself.
    alpha, sigma = sde.mean_scale(t), sde.std(t)
    p, q = papers_target("noise" if name == "auto" else prediction, sde, t[None])
    left = p**2 * STD**2 + q**2
    left = left - (p * alpha * STD**2 + q * sigma) ** 2 / (alpha**2 * STD**2 + sigma**2)
    torch.testing.assert_close(least, left[0], rtol=1e-8, atol=0)
    scale = torch.ones(2, dtype=torch.float64, requires_grad=True)
    changed = expected_loss(objective, lambda x, c: scale[0] * exact(x, c) + scale[1] - 1, t)
    slope = torch.autograd.grad(changed, scale)[0]
    assert (slope.abs() < 1e-7 * (least + changed)).all()
    for other in (torch.tensor([0.9, 1.0]), torch.tensor([1.0, 1.1])):
        worse = expected_loss(objective, lambda x, c, by=other: by[0] * exact(x, c) + by[1] - 1, t)
        assert worse > least


@pytest.mark.parametrize("likelihood", [False, True])
def test_the_papers_weighting_is_the_same_for_every_prediction(sde, prediction, likelihood):
    t = torch.linspace(0.02, 1, 8, dtype=torch.float64) * sde.T
    x_0, z = torch.randn(2, 8, 3, dtype=torch.float64)
    read = parameterisation(sde, prediction=prediction, sigma_data=S)

    def net(x, cond):
        return torch.sin(x)

    loss = ScoreMatching(sde, likelihood_weighting=likelihood, parameterisation=read)(
        net, x_0, t, z
    )
    alpha, sigma = sde.mean_scale(t)[:, None], sde.std(t)[:, None]
    x = alpha * x_0 + sigma * z
    score = NetworkScore(net, sde, parameterisation=read)(x, t)
    weight = sde.diffusion_squared(t)[:, None] / sigma**2 if likelihood else 1
    expected = 0.5 * (weight * (sigma * score + z) ** 2).sum(1)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-10)


def test_the_loss_of_a_denoiser_keeps_its_digits_in_single_precision(sde):
    # A network that is off by a hundredth of the noise it leaves: through the score, whose
    # size is 1/σ² there, nothing of that would be left at small noise.
    t = torch.full((4,), 1e-4 if sde.std(torch.zeros(1)) == 0 else 0.0)
    x_0, z = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    level = sde.noise_level(t)[:, None]
    read = parameterisation(sde, prediction="denoised")
    loss = ScoreMatching(sde, reduce_mean=True, parameterisation=read)(
        lambda x, cond: x_0 + 0.01, x_0, t, z
    )
    expected = ((x_0 + 0.01 - x_0) / level).square().mean(1)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_what_a_network_declares_is_passed_on_by_name():
    sde, seen = VPSDE(), []

    def net(x, cond, label=None, augment=None):
        seen.append((label, augment))
        return x

    x, t = torch.randn(2, 3), torch.full((2,), 0.5)
    label, augment = torch.tensor([0, 1]), torch.randn(2, 9)
    NetworkScore(net, sde, label=label, augment=augment)(x, t)
    for objective in (PredictionLoss(sde), ScoreMatching(sde)):
        objective(net, x, t, x, label, augment=augment)
    make_objective(sde, continuous=False)(net, x, t.long(), x, augment=augment)
    make_objective(sde, continuous=False, objective="elbo")(net, x, t.long(), x)
    assert [one for one, _ in seen] == [label] * 3 + [None] * 2
    assert [two for _, two in seen] == [augment] * 4 + [None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"continuous": False}, "'prediction' is defined for continuous times"),
        ({"likelihood_weighting": True}, "'prediction' has no other weighting"),
        ({"times": "importance"}, "importance times are made for likelihood weighting"),
    ],
)
def test_the_loss_of_the_output_refuses_what_it_has_no_use_for(options, words):
    with pytest.raises(ValueError, match=words):
        make_objective(VPSDE(), objective="prediction", **options)


# ---- Through configs and the command line ----


def parsed(recipe, *words):
    return cli.parse(
        ["main.py", f"--config=configs/{recipe}.py", "--mode=train"]
        + [f"--config.{word}" for word in words]
    ).config


def test_the_command_line_trains_and_samples_a_network_of_v(tmp_path, capsys):
    run = f"--workdir={tmp_path / 'run'}"
    train = ["main.py", "--config=configs/vp/digits.py", "--mode=train", run, *TINY]
    assert cli.main([*train, "--config.model.prediction=v"]) == 0
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("loss" in row for row in rows)
    sample = ["main.py", "--config=configs/vp/digits.py", "--mode=sample", run]
    sample += ["--num_samples=2", f"--output={tmp_path / 'images'}", "--config.device=cpu"]
    sample += ["--config.sampling.method=ddim", "--config.sampling.num_steps=3"]
    assert cli.main(sample) == 0
    assert len(list((tmp_path / "images").glob("*.png"))) == 2
    # The checkpoint says what its network puts out, and holds to it.
    assert cli.main([*sample, "--config.model.prediction=noise"]) == 1
    # What other formats would read as the noise stays in ours.
    newest = tmp_path / "run" / "checkpoints" / "step_00000004.pt"
    for output in (tmp_path / "theirs.pth", tmp_path / "folder"):
        words = ["--mode=convert", f"--checkpoint={newest}", f"--output={output}"]
        assert cli.main(["main.py", *words]) == 1
        assert "have no word for it" in capsys.readouterr().err
        assert not output.exists()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("vp/digits", ("model.prediction=denoised",)),
        ("vp/digits", ("model.prediction=edm",)),
        ("vp/digits", ("model.prediction=velocity", "model.embedding_type=fourier")),
        (
            "vp/digits",
            (
                "model.prediction=score",
                "model.embedding_type=fourier",
                "model.scale_by_sigma=True",
            ),
        ),
        ("ve/digits", ("model.prediction=score",)),
        ("ve/digits", ("model.prediction=v", "model.scale_by_sigma=False")),
        (
            "ve/digits",
            (
                "model.prediction=noise",
                "model.scale_by_sigma=False",
                "model.embedding_type=positional",
            ),
        ),
    ],
)
def test_configs_of_any_prediction_are_taken(recipe, words):
    check_config(parsed(recipe, *words))


@pytest.mark.parametrize(
    ("recipe", "words", "remedy"),
    [
        ("vp/digits", ("model.prediction=score",), "scale_by_sigma=False does not go with"),
        (
            "vp/digits",
            ("model.prediction=score", "model.scale_by_sigma=True"),
            "embedding_type='fourier'",
        ),
        ("ve/digits", ("model.prediction=v",), "divide by the noise level"),
        ("vp/digits", ("model.prediction=velocty",), "did you mean 'velocity'"),
        (
            "vp/digits",
            ("model.prediction=edm", "training.continuous=False"),
            "take score, noise, denoised, v or auto",
        ),
        ("vp/digits", ("model.embedding_type=fourier",), "given a time or step"),
        (
            "vp/digits",
            (
                "model.prediction=v",
                "training.continuous=False",
                "training.time_sampling=uniform",
                "model.embedding_type=fourier",
            ),
            "given a time or step",
        ),
    ],
)
def test_configs_that_could_not_learn_are_refused(recipe, words, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_config(parsed(recipe, *words))


def test_a_run_from_before_predictions_had_names_is_the_same_experiment(tmp_path):
    config = parsed("vp/digits")
    written = json.loads(history.to_json(config))
    assert written["model"].pop("prediction") == "auto"
    written["model"].pop("sigma_data")
    saved = {"config": json.dumps(written), "step": 7, "versions": ""}
    path = tmp_path / "checkpoints" / "step_00000007.pt"
    changes.of_fields(saved, path, config)
    assert history.adopt(config, json.dumps(written), {}, tmp_path) == config
    assert not {"model.prediction", "model.sigma_data"} & history.of_checkpoint(config).keys()
    now = parsed("vp/digits", "model.prediction=v")
    with pytest.raises(ValueError, match=r"model.prediction is 'auto' there and 'v'"):
        changes.of_fields(saved, path, now)
    assert history.of_checkpoint(now)["model.prediction"] == "v"


def test_a_prediction_of_ones_own_is_a_row(monkeypatch):
    class Negative(PREDICTIONS["noise"]):
        """−z."""

        def target(self, at, x_0, z):
            return -z

        def noise(self, at):
            return Affine(None, -at.one())

        def denoised(self, at):
            return Affine(1 / at.alpha, at.sigma / at.alpha)

    monkeypatch.setitem(PREDICTIONS, "negative", Negative)
    config = parsed("subvp/digits", "model.prediction=negative")
    check_config(config)
    sde, (x, z) = build_sde(config), torch.randn(2, 4, 3)
    t = torch.full((4,), 0.5)
    score = build_score(config, lambda x, cond: -z, sde)
    assert_close(score(x, t), -z / sde.std(t)[:, None], 1e-6)
    loss = build_objective(config, sde)(lambda x, cond: -z, x, t, z)
    assert torch.equal(loss, torch.zeros(4))

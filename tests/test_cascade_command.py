"""`--mode cascade`, the networks that upsample, and what they are trained on."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import nn

import score_sde
from score_sde import noise
from score_sde.checkpoints import load, release_2021
from score_sde.commands import cli, evaluate
from score_sde.commands.cascade import check_fit
from score_sde.config.build import build_network, build_sources, build_train_step, with_range
from score_sde.data import DatasetInfo, Downsampled, MemorySource, StreamingSource, to_unit
from score_sde.evaluation.classifier import digits_classifier
from score_sde.evaluation.frechet import frechet_distance
from score_sde.evaluation.moments import Moments
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.low_resolution import LowResolution
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.unet import UNet
from score_sde.objectives import make_objective
from score_sde.posteriors.measurements import MEASUREMENTS
from score_sde.sde import VPSDE
from score_sde.training import TrainState, TrainStep, make_optimizer

BASE, UP = "configs/vp/digits_4x4.py", "configs/vp/digits_upsampler.py"
STEPS = "--config.sampling.num_steps=3"


def run(recipe, workdir, *words):
    where = ("--config", recipe, "--workdir", str(workdir))
    return cli.main(["main.py", *where, *TINY, *map(str, words)])


def config_of(recipe, *words):
    return cli.parse(["main.py", "--config", recipe, "--mode=train", *TINY, *words]).config


def images_of(path):
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base model and an upsampler, both hardly trained; and the upsampler's checkpoint."""
    folder = tmp_path_factory.mktemp("cascade")
    assert run(BASE, folder / "base", "--mode=train") == 0
    assert run(UP, folder / "up", "--mode=train", "--config.model.init_scale=1.0") == 0
    return folder


@pytest.fixture(scope="module")
def upsampler(runs):
    return runs / "up" / "checkpoints" / "step_00000004.pt"


@pytest.fixture
def drawn(runs, upsampler, tmp_path):
    """Draws a cascade into an .npz, and gives its arrays."""

    def draw(name, *words, base=runs / "base"):
        out = tmp_path / f"{name}.npz"
        words = ("--mode=cascade", f"--upsampler={upsampler}", f"--output={out}", STEPS, *words)
        assert run(BASE, base, *words) == 0
        return images_of(out)

    return draw


# What the networks are trained on.


def test_a_base_model_is_trained_on_what_an_upsampler_is_given():
    small, large = build_sources(config_of(BASE))[0], build_sources(config_of(UP))[0]
    index = torch.arange(200)
    x_0 = to_unit(large.images(index), large.info.levels)
    means = LowResolution(2, 0.0)(x_0)["image"]
    assert small.info.levels == 65  # sums of four pixels of 17 levels: nothing is rounded
    assert to_unit(small.images(index), 65).equal(means)
    assert small.labels(index).equal(large.labels(index))
    box = MEASUREMENTS["box_downsampling"]((1, 8, 8), 0.0, factor=2)
    assert torch.allclose(box.forward(x_0), means, atol=1e-6)


def test_means_of_many_levels_are_rounded_however_they_are_read():
    info = DatasetInfo("made", "train", 5, (3, 6, 4), 256, 0, (), "print", "as made")
    pixels = torch.randint(0, 256, (5, 3, 6, 4), dtype=torch.uint8)
    memory = Downsampled(MemorySource(info, pixels), 2)
    streaming = Downsampled(StreamingSource(info, pixels.__getitem__, num_workers=0), 2)
    index = torch.tensor([4, 0, 2])
    means = pixels[index].double().unflatten(-1, (2, 2)).unflatten(-3, (3, 2)).mean((-3, -1))
    assert memory.info.shape == (3, 3, 2)
    assert memory.info.levels == 256
    assert ((memory.images(index) - means).abs() <= 0.5).all()
    for source in (streaming, memory.to(torch.device("cpu"))):
        assert source.images(index).equal(memory.images(index))
        (part,) = source.stream([index])
        assert part.equal(memory.images(index))
    assert memory.info.fingerprint != Downsampled(MemorySource(info, pixels), 1).info.fingerprint


def test_the_small_images_have_noise_of_the_level_that_is_told():
    x_0 = torch.randn(4000, 1, 4, 4)
    make = LowResolution(2, 0.5)
    given = make(x_0, torch.Generator().manual_seed(0))
    s = given["image_noise"]
    z = (given["image"] - make.images(x_0)) / s[:, None, None, None]
    assert abs(s.mean() - 0.25) < 4 * 0.5 / (12 * 4000) ** 0.5
    assert 0 <= s.min() < 0.01
    assert 0.49 < s.max() <= 0.5
    assert abs(z.var() - 1) < 4 * (2 / z.numel()) ** 0.5
    # Of held-out images it belongs to an image, whatever its batch.
    index = torch.arange(8)
    whole = make.held_out(x_0[:8], 3, index)
    part = make.held_out(x_0[5:8], 3, index[5:])
    assert all(whole[name][5:].equal(part[name]) for name in ("image", "image_noise"))


class Plain(nn.Module):
    """A network of one weight, which notes what it is given."""

    def __init__(self):
        super().__init__()
        self.weight, self.given = nn.Parameter(torch.ones(())), []

    def forward(self, x, cond, label=None, **inputs):
        self.given.append(inputs)
        return self.weight * x


def step_of(low_resolution):
    """One step of `Plain` on ten images: its records, what it was given, and the generator."""
    net, generator = Plain(), torch.Generator().manual_seed(1)
    optimizer = make_optimizer(net.named_parameters(), name="Adam", lr=0.1)
    state = TrainState(net, ExponentialMovingAverage(net, 0.9), optimizer)
    objective = make_objective(VPSDE())
    step = TrainStep(objective, lr=0.1, low_resolution=low_resolution, generator=generator)
    x_0 = torch.linspace(-1, 1, 640).view(10, 1, 8, 8)
    return step(state, x_0), net.given, generator, x_0


def test_only_an_upsampler_draws_more_in_training_and_it_draws_last():
    plain, given, generator, x_0 = step_of(None)
    others = torch.Generator().manual_seed(1)
    make_objective(VPSDE()).times(10, generator=others)
    torch.empty_like(x_0).normal_(generator=others)
    assert given == [{}]
    assert generator.get_state().equal(others.get_state())
    up, given, generator, _ = step_of(LowResolution(2, 0.5))
    assert up.losses.equal(plain.losses)  # times and noise are those of the run without
    expected = LowResolution(2, 0.5)(x_0, others)
    assert all(given[0][name].equal(value) for name, value in expected.items())
    assert generator.get_state().equal(others.get_state())


# The network.


def network(factor=2, **options):
    torch.manual_seed(0)
    plain = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": ()}
    plain |= {"dropout": 0.0, "init_scale": 1.0, "upsampling_factor": factor} | options
    return NCSNpp(image_size=8, num_channels=1, **plain).eval()


def test_the_small_image_stands_beside_the_large_one_enlarged():
    net, x, image = network(centered=False), torch.rand(3, 1, 8, 8), torch.rand(3, 1, 4, 4)
    seen = []
    net.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net(x, torch.ones(3), image=image)
    assert seen[0][:, :1].equal(2 * x - 1)
    enlarged = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert seen[0][:, 1:].equal(2 * enlarged - 1)


@pytest.mark.parametrize("pyramid", ["none", "input_skip", "residual"])
def test_image_and_its_noise_both_count(pyramid):
    net, x, cond = network(progressive_input=pyramid), torch.randn(2, 1, 8, 8), torch.ones(2)
    image, level = torch.randn(2, 1, 4, 4), torch.tensor([0.0, 0.3])
    out = net(x, cond, image=image, image_noise=level)
    assert net.inputs == ("image", "image_noise")
    assert out.shape == x.shape
    assert out[:1].allclose(net(x, cond, image=image)[:1])  # without a level there is no noise
    assert (out[1:] - net(x, cond, image=image)[1:]).abs().max() > 1e-3
    assert (out - net(x, cond, image=image + 1, image_noise=level)).abs().max() > 1e-3


def test_images_that_do_not_fit_are_refused():
    x, cond = torch.randn(2, 1, 8, 8), torch.ones(2)
    with pytest.raises(ValueError, match="give it one as image="):
        network()(x, cond)
    with pytest.raises(ValueError, match=r"give it \(2, 1, 4, 4\)"):
        network()(x, cond, image=torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="set upsampling_factor"):
        network(0)(x, cond, image=torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="set conditional=True"):
        network(conditional=False)


def test_without_a_factor_weights_and_names_are_as_ever():
    plain, up = network(0), network(2)
    new = {"conditioning.image_noise.weight", "conditioning.image_noise.bias"}
    assert not any("image" in name for name in plain.state_dict())
    assert set(up.state_dict()) - set(plain.state_dict()) == new
    assert plain.inputs == ()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config.model.upsampling_factor=3"], "take one of 2, 4, 8"),
        (["--config.sampling.image_noise=0.6"], "image_noise=0.5; give at most that"),
        (
            ["--config.sampling.grid=optimised", "--config.sampling.method=unipc"],
            "needs low-resolution images: set auto",
        ),
        (["--config.model.upsampling_factor=1"], "0 or from 2"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(words, sentence, tmp_path, capsys):
    assert run(UP, tmp_path, "--mode=train", *words) == 1
    assert sentence in capsys.readouterr().err


def test_a_network_that_takes_no_images_is_refused(tmp_path, capsys):
    word = "--config.model.upsampling_factor=2"
    ncsn = "configs/ve/ncsnv2/cifar10.py"
    words = ["--config", ncsn, "--mode=train", f"--workdir={tmp_path}", "--config.device=cpu"]
    with_field = tmp_path / "mine.py"
    with_field.write_text(
        "from configs.ve.ncsnv2 import cifar10\n"
        "def get_config():\n"
        "    config = cifar10.get_config()\n"
        "    config.data.dataset = 'digits'\n"
        "    return config\n"
    )
    words[1] = str(with_field)
    assert cli.main(["main.py", *words, word]) == 1
    assert "takes no low-resolution images" in capsys.readouterr().err


# Training.


def test_a_run_that_was_stopped_goes_on_bit_for_bit(runs, upsampler, tmp_path):
    words = ("--mode=train", "--config.model.init_scale=1.0")
    assert run(UP, tmp_path, *words, "--config.training.n_iters=2") == 0
    assert run(UP, tmp_path, *words) == 0
    once, twice = load(upsampler), load(tmp_path / "checkpoints" / "step_00000004.pt")
    assert all(once["network"][k].equal(v) for k, v in twice["network"].items())
    assert once["rng"]["cpu"].equal(twice["rng"]["cpu"])


def test_snapshots_draw_from_test_images(tmp_path, monkeypatch):
    asked = watch(monkeypatch)
    words = ("--config.training.snapshot_sampling=True", "--config.training.snapshot_images=3")
    words = (*words, "--config.training.n_iters=1", "--config.training.eval_freq=5", STEPS)
    assert run(UP, tmp_path, "--mode=train", "--config.sampling.image_noise=0.0", *words) == 0
    test = build_sources(config_of(UP))[1]
    x_0 = 2 * to_unit(test.images(torch.arange(3)), test.info.levels) - 1
    of_snapshot = [call for call in asked if len(call["image"]) == 3 and not call["image"].is_meta]
    assert len(of_snapshot) >= 3
    means = LowResolution(2, 0.0).images(x_0)
    assert all(call["image"].allclose(means) for call in of_snapshot)
    assert (tmp_path / "samples" / "step_00000001.png").is_file()


def watch(monkeypatch):
    """Notes what every network is given from here on."""
    asked, forward = [], UNet.forward

    def noted(self, x, cond, label=None, augment=None, image=None, image_noise=None):
        asked.append({"x": x, "label": label, "image": image, "noise": image_noise})
        return forward(self, x, cond, label, augment, image, image_noise)

    monkeypatch.setattr(UNet, "forward", noted)
    return asked


# The cascade.


def test_a_cascade_is_its_two_stages_one_after_the_other(drawn, runs, upsampler, tmp_path):
    both = drawn("both", "--num_samples=5")
    low = tmp_path / "low.npz"
    words = ("--mode=sample", "--num_samples=5", f"--output={low}", STEPS)
    assert run(BASE, runs / "base", *words) == 0
    assert images_of(low)["images"].shape == (5, 4, 4, 1)
    second = drawn("second", f"--input={low}", base=tmp_path / "nothing")
    assert both["images"].shape == (5, 8, 8, 1)
    assert np.array_equal(both["images"], second["images"])
    assert np.array_equal(both["index"], np.arange(5))
    picture = tmp_path / "both_grid.png"
    assert picture.is_file()
    seed = drawn("seed", "--num_samples=5", "--config.seed=1")
    assert not np.array_equal(seed["images"], both["images"])


def test_an_image_is_the_same_however_many_are_drawn(drawn):
    one = drawn("one", "--num_samples=5", "--config.sampling.batch_size=1")["images"]
    four = drawn("four", "--num_samples=5", "--config.sampling.batch_size=4")["images"]
    few = drawn("few", "--num_samples=2", "--config.sampling.batch_size=4")["images"]
    assert np.abs(one.astype(int) - four).max() <= 1
    assert np.abs(few.astype(int) - four[:2]).max() <= 1


def test_the_stages_share_no_noise(drawn, monkeypatch):
    asked = watch(monkeypatch)
    level = "--config.sampling.image_noise=0.3"
    drawn("noise", "--num_samples=40", "--config.sampling.batch_size=40", level)
    small = next(call["x"] for call in asked if call["image"] is None)
    large = next(call for call in asked if call["image"] is not None)
    assert (large["noise"] == 0.3).all()
    # The first state of each stage is noise; that of the second begins with other numbers.
    first, second = small.flatten(), large["x"].flatten(1)[:, :16].flatten()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4 / 640**0.5
    assert (first - second).abs().min() > 0
    assert noise.derived_seed(7, 1) == noise.derived_seed(7, 1)
    made = [noise.derived_seed(seed, k) for seed in (-(2**63), 0, 1, 2**63 - 1) for k in (0, 1)]
    assert len({*made}) == 8
    assert all(-(2**63) <= seed < 2**63 for seed in made)


def test_classes_pass_through_both_stages(tmp_path, monkeypatch):
    classes = "--config.model.num_classes=10"
    dropout = "--config.model.label_dropout=0.5"
    assert run(BASE, tmp_path / "base", "--mode=train", classes, dropout) == 0
    assert run(UP, tmp_path / "up", "--mode=train", classes) == 0
    checkpoint = tmp_path / "up" / "checkpoints" / "step_00000004.pt"
    asked, out = watch(monkeypatch), tmp_path / "out.npz"
    words = ["--mode=cascade", f"--upsampler={checkpoint}", "--num_samples=12", STEPS]
    assert run(BASE, tmp_path / "base", *words, f"--output={out}") == 0
    assert {(call["image"] is None, *call["label"].tolist()) for call in asked} == {
        (stage, *range(10), 0, 1) for stage in (True, False)
    }
    assert images_of(out)["label"].tolist() == [*range(10), 0, 1]
    asked.clear()
    out = tmp_path / "three.npz"
    assert run(BASE, tmp_path / "base", *words, f"--output={out}", "--label=3") == 0
    assert {n for call in asked for n in call["label"].tolist()} == {3}
    assert {call["image"] is None for call in asked} == {True, False}
    # Only the base model has learnt the score of no class (10), away from which guidance leads.
    asked.clear()
    led = ("--label=3", "--guidance=2", f"--output={tmp_path / 'led.npz'}")
    assert run(BASE, tmp_path / "base", *words, *led) == 0
    labels = {(call["image"] is None, n) for call in asked for n in call["label"].tolist()}
    assert labels == {(True, 3), (True, 10), (False, 3)}
    assert images_of(tmp_path / "led.npz")["label"].tolist() == [3] * 12


def test_a_classifier_leads_the_base_model_or_the_upsampler_alone(
    drawn, runs, upsampler, tmp_path, capsys
):
    small = ("--config.classifier.nf=8", "--config.classifier.ch_mult=(1,)")
    assert run(BASE, runs / "base", "--mode=train_classifier", *small) == 0
    led = f"--classifier={runs / 'base' / 'classifier'}"
    low = tmp_path / "low.npz"
    words = ("--num_samples=4", led, "--config.sampling.classifier_scale=5.0")
    assert run(BASE, runs / "base", "--mode=sample", *words, f"--output={low}", STEPS) == 0
    both = drawn("both", *words)
    plain = drawn("plain", "--num_samples=4")
    second = drawn("second", f"--input={low}", "--num_samples=4")
    assert np.array_equal(both["images"], second["images"])
    assert not np.array_equal(both["images"], plain["images"])
    assert both["label"].tolist() == [0, 1, 2, 3]
    # Without a base model it would lead the upsampler, whose images are larger.
    words = ("--mode=cascade", f"--upsampler={upsampler}", f"--input={low}", led, "--label=3")
    assert run(BASE, runs / "base", *words) == 1
    assert "is of images of (1, 4, 4)" in capsys.readouterr().err


@pytest.mark.parametrize("raw", [False, True])
def test_the_base_model_of_an_evaluation_has_the_weights_that_are_asked_for(runs, upsampler, raw):
    path = runs / "base" / "checkpoints" / "step_00000004.pt"
    base = evaluate._opened(path, config_of(UP), upsampler, {}, print, raw=raw)
    state = load(path)
    weights = state["network"] if raw else state["ema"]["shadow"]
    assert all(value.equal(weights[name]) for name, value in base.network.state_dict().items())


def test_what_does_not_fit_is_refused_in_one_sentence(runs, upsampler, tmp_path, capsys):
    base = runs / "base" / "checkpoints" / "step_00000004.pt"
    given = f"--upsampler={upsampler}"
    for recipe, workdir, words, sentence in (
        (BASE, runs / "base", ["--mode=cascade"], "takes --upsampler"),
        (BASE, runs / "base", ["--mode=cascade", f"--upsampler={base}"], "upsamples no images"),
        (UP, runs / "up", ["--mode=cascade", given], "this network upsamples"),
        (
            BASE,
            runs / "base",
            ["--mode=cascade", given, f"--checkpoint={base}", f"--input={tmp_path}"],
            "give one of the two",
        ),
        (
            BASE,
            runs / "base",
            ["--mode=cascade", f"--upsampler={runs / 'up'}"],
            "is a work directory: name a checkpoint of it, as",
        ),
        (
            BASE,
            runs / "base",
            ["--mode=cascade", given, f"--input={base}", "--fit=tile"],
            "take resize, crop or pad",
        ),
        (
            BASE,
            runs / "base",
            ["--mode=sample", f"--guide={upsampler}", "--guidance=2"],
            "upsamples low-resolution images, and the network that it is to lead is given none",
        ),
        (UP, runs / "up", ["--mode=sample"], "--mode cascade --upsampler FILE"),
        (UP, runs / "up", ["--mode=inpaint"], "--mode cascade --upsampler FILE"),
        (UP, runs / "up", ["--mode=compare"], "--mode cascade --upsampler FILE"),
        (BASE, runs / "base", ["--mode=eval", f"--base={base}"], "leave --base out"),
        (
            UP,
            runs / "up",
            ["--mode=eval", "--config.eval.labels=proportional"],
            "have the classes of the images that they are drawn from: set 'equal'",
        ),
        (
            BASE,
            runs / "base",
            ["--mode=eval", "--config.eval.labels=proportional"],
            "this network draws of no classes: leave it out",
        ),
        (BASE, runs / "base", ["--mode=cascade", given, "--fit=crop"], "name them with --input"),
    ):
        assert run(recipe, workdir, *words) == 1
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    large = tmp_path / "large"
    assert run("configs/vp/digits.py", large, "--mode=train") == 0
    assert run("configs/vp/digits.py", large, "--mode=cascade", given) == 1
    assert "draws images of (1, 8, 8)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--mode cascade --upsampler FILE"):
        score_sde.load(upsampler)
    with pytest.raises(ValueError, match="no network that upsamples"):
        release_2021.dump(build_network(config_of(UP)))
    assert build_train_step(config_of(UP), None).low_resolution.most_noise == 0.5


@pytest.fixture
def evaluated(runs, tmp_path):
    """Evaluates 40 samples of the upsampler, and gives the report."""

    def report(name, *words):
        folder = tmp_path / name
        words = [*words, f"--config.eval.stats_folder={tmp_path / 'stats'}", STEPS]
        words = [f"--eval_folder={folder}", "--config.eval.num_samples=40", *words]
        assert run(UP, runs / "up", "--mode=eval", *words) == 0
        return json.loads((folder / "step_00000004.json").read_text())

    return report


def test_an_evaluation_with_a_base_model_is_of_the_cascade(evaluated, drawn, runs, tmp_path):
    base = runs / "base" / "checkpoints" / "step_00000004.pt"
    report = evaluated("with", f"--base={base}")
    images = torch.from_numpy(drawn("cascade", "--num_samples=40")["images"]).movedim(-1, 1)
    test = build_sources(config_of("configs/vp/digits.py"))[1]
    real = to_unit(test.images(torch.arange(len(test))), 17).mul(255).round().to(torch.uint8)
    network = digits_classifier()
    ours, theirs = Moments(network.dimensions), Moments(network.dimensions)
    ours.update(network(images)[0])
    theirs.update(network(real)[0])
    value = frechet_distance(ours.mu, ours.sigma, theirs.mu, theirs.sigma)
    assert report["fd"]["value"] == pytest.approx(value, rel=1e-6)
    assert str(base) in report["fd"]["given"]
    plain = evaluated("without")
    assert plain["fd"]["given"] == "means of test images"
    assert plain["fd"]["value"] != report["fd"]["value"]
    assert plain["held_out_loss"]["value"] == report["held_out_loss"]["value"]
    # One of the two is not lost to the other.
    assert evaluated("with")["low_resolution"] == report["low_resolution"] != "test_images"
    beside = json.loads((tmp_path / "with" / "step_00000004_test_images.json").read_text())
    assert beside["fd"]["value"] == plain["fd"]["value"]
    assert "low resolution" in plain["left_out"]["bits/dim"]


def test_networks_of_floats_make_no_cascade(tmp_path):
    words = ["main.py", "--config=vp/digits", f"--workdir={tmp_path}", "--mode=sample"]
    pictures = cli.parse(words).config
    floats = with_range(pictures, (-1.0, 4.0))
    for base, up in ((floats, pictures), (pictures, floats)):
        with pytest.raises(ValueError, match="is of floats, and pictures of 8 bits pass"):
            check_fit(base, up, tmp_path)


def test_pictures_are_upsampled_as_they_are(drawn, runs, upsampler, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)
    np.save(tmp_path / "low.npy", pixels)
    asked = watch(monkeypatch)
    drawn("own", f"--input={tmp_path / 'low.npy'}", "--config.sampling.image_noise=0.0")
    seen = torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 1)
    assert all(call["image"].double().allclose(seen, atol=1e-6) for call in asked)


def test_larger_pictures_are_fitted_as_asked_for(drawn, runs, upsampler, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 6, 1), dtype=np.uint8)
    np.save(tmp_path / "larger.npy", pixels)
    asked = watch(monkeypatch)
    words = (f"--input={tmp_path / 'larger.npy'}", "--config.sampling.image_noise=0.0")
    drawn("fitted", *words, "--fit=crop")
    seen = torch.from_numpy(pixels[:, 2:6, 1:5] / 127.5 - 1).movedim(-1, 1)
    assert all(call["image"].double().allclose(seen, atol=1e-6) for call in asked)

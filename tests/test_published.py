"""Checkpoints of the 2021 release and of NCSN and NCSNv2: sampled, converted, trained from."""

import json
import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_collections
import numpy as np
import pytest
import torch
from networks import assert_images_close
from torch import nn

from score_sde import checkpoints
from score_sde.checkpoints import release_2021
from score_sde.commands import adopted, cli
from score_sde.config import history
from score_sde.config.build import build_network, build_state

NCSNPP = (
    "--config=configs/ve/cifar10_ncsnpp_continuous.py",
    "--config.model.nf=16",
    "--config.model.ch_mult=(1,1)",
    "--config.model.num_res_blocks=1",
    "--config.device=cpu",
    "--config.sampling.num_steps=2",
)
DIGITS = (
    "--config=configs/vp/digits.py",
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,2)",
    "--config.device=cpu",
    "--config.training.batch_size=4",
    "--config.training.snapshot_sampling=False",
)
NCSN_V2 = (
    "--config=configs/ve/ncsnv2/cifar10.py",
    "--config.model.nf=4",
    "--config.device=cpu",
    "--config.data.image_size=16",
    "--config.model.num_scales=3",
    "--config.sampling.n_steps_each=1",
)
NCSN_V1 = ("--config=configs/ve/ncsn/cifar10.py", *NCSN_V2[1:])


def config_of(words: tuple[str, ...]) -> ml_collections.ConfigDict:
    return cli.parse(["main.py", "--mode=train", *words]).config


def run(*words: object) -> int:
    return cli.main(["main.py", *map(str, words)])


def sentence(capsys, *words: object) -> str:
    """What a refused command says: one sentence, exit code 1, no stack trace."""
    capsys.readouterr()  # what was said before
    assert run(*words) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "Traceback" not in said
    return said


def random_network(config, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = build_network(config)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.normal_()
    return network


def adam_state(shapes: list[tuple[int, ...]], trained: list[bool], keys: list[int]) -> dict:
    """As torch's Adam saves it, made here from random numbers; frozen weights have no state."""
    state = {
        key: {"step": 7, "exp_avg": torch.randn(shape), "exp_avg_sq": torch.rand(shape)}
        for key, shape, has_gradient in zip(keys, shapes, trained, strict=True)
        if has_gradient
    }
    group = {"lr": np.float64(2e-4), "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    return {"state": state, "param_groups": [{**group, "amsgrad": False, "params": keys}]}


def optimizer_of(network: nn.Module, first_key: int = 0) -> dict:
    weights = release_2021.entries(network)
    keys = [first_key + 8 * k if first_key else k for k in range(len(weights))]
    return adam_state([w.shape for w in weights], [w.trainable for w in weights], keys)


def release(config) -> dict:
    """The content of a `checkpoint_N.pth`, its averages far from the weights."""
    network, average = random_network(config, 1), release_2021.dump(random_network(config, 2))
    weights = OrderedDict((f"module.{k}", v) for k, v in release_2021.dump(network).items())
    shadow = [average[name] for name in release_2021.trainable_order(network)]
    return {
        "optimizer": optimizer_of(network),
        "model": weights,
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": shadow},
        "step": 7,
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A published checkpoint of the small NCSN++."""
    path = tmp_path_factory.mktemp("published") / "checkpoint_8.pth"
    torch.save(release(config_of(NCSNPP)), path)
    return path


def content_of(path: Path) -> dict:
    return torch.load(path, weights_only=False)


def assert_same(one: object, other: object, path: str = "") -> None:
    if isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}[{k}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, torch.as_tensor(other, dtype=one.dtype)), path
    else:
        assert one == other, path


def shadow_by_name(content: dict, network: nn.Module) -> dict[str, torch.Tensor]:
    names = release_2021.trainable_order(network)
    shadow = content["ema"]["shadow_params"]
    weights = {name.removeprefix("module."): value for name, value in content["model"].items()}
    return weights | dict(zip(names, shadow, strict=True))


# The release's own file


def test_a_file_of_the_release_gives_its_outputs(golden):
    row, arrays = (
        golden.json("checkpoints/ncsnpp_small"),
        golden.arrays("checkpoints/ncsnpp_small"),
    )
    path = golden.folder / "checkpoints" / "ncsnpp_small.pth"
    config = ml_collections.ConfigDict(row["config"])
    network = checkpoints.load_official(path, config)
    assert not network.training
    with torch.no_grad():
        assert_images_close(network(arrays["x"], arrays["cond"]), arrays["y_ema"], 2e-5)
    content = checkpoints.load_any(path)
    state = checkpoints.from_published(content, network, 0.5, path)
    network.load_state_dict(state["network"])
    with torch.no_grad():
        assert_images_close(network(arrays["x"], arrays["cond"]), arrays["y_raw"], 2e-5)
    assert state["step"] == row["step"]
    assert (state["ema"]["decay"], state["ema"]["num_updates"]) == (0.999, row["ema_num_updates"])


def test_original_to_ours_to_original_is_exact_for_a_file_of_the_release(golden, tmp_path):
    path = golden.folder / "checkpoints" / "ncsnpp_small.pth"
    ours, theirs = tmp_path / "step_00000002.pt", tmp_path / "checkpoint_1.pth"
    assert run(*NCSNPP, "--mode=convert", f"--checkpoint={path}", f"--output={ours}") == 0
    assert run("--mode=convert", f"--checkpoint={ours}", f"--output={theirs}") == 0
    before, after = content_of(path), content_of(theirs)
    for key in ("ema", "step"):
        assert_same(before[key], after[key], key)
    assert_same(before["optimizer"]["state"], after["optimizer"]["state"])
    sigmas = [content["model"].pop("module.sigmas") for content in (before, after)]
    assert torch.allclose(*sigmas, rtol=1e-12, atol=0)  # computed anew
    assert_same(dict(before["model"]), after["model"])


# Both ways


def test_original_to_ours_to_original_is_exact(published, tmp_path, capsys):
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pth"
    assert run(*NCSNPP, "--mode=convert", f"--checkpoint={published}", f"--output={ours}") == 0
    assert str(ours) in capsys.readouterr().out
    # No recipe: ours know their own.
    assert run("--mode", "convert", "--checkpoint", ours, "--output", theirs) == 0
    before, after = content_of(published), content_of(theirs)
    assert_same(before["optimizer"], after["optimizer"])
    assert_same(before["ema"], after["ema"])
    assert before["step"] == after["step"]
    assert_same(dict(before["model"]), after["model"])
    assert torch.load(theirs, weights_only=True).keys() == before.keys()


def test_ours_is_by_name_and_says_where_it_came_from(published, tmp_path):
    ours = tmp_path / "ours.pt"
    assert run(*NCSNPP, "--mode=convert", f"--checkpoint={published}", f"--output={ours}") == 0
    state, config = checkpoints.load(ours), config_of(NCSNPP)
    content, template = content_of(published), build_state(config)
    template.load_state_dict(state)
    assert json.loads(state["config"]) == json.loads(history.to_json(config))
    assert f"converted_from {published}" in state["versions"]
    # Adam's state and the averages went where the weights of the same name went.
    network = random_network(config, 0)
    release_2021.load(network, shadow_by_name(content, network))
    assert_same(network.state_dict(), dict(state["ema"]["shadow"]))
    place = {entry.ours: k for k, entry in enumerate(release_2021.entries(network))}
    for name in ("conv_in.weight", "conv_in.bias"):
        moments = content["optimizer"]["state"][place[name]]
        assert torch.equal(state["optimizer"][name]["exp_avg"], moments["exp_avg"])
        assert torch.equal(state["optimizer"][name]["exp_avg_sq"], moments["exp_avg_sq"])
        assert state["optimizer"][name]["step"] == 7


def trained(workdir: Path, steps: int, *words: object) -> Path:
    every = f"--config.training.n_iters={steps}"
    assert run(*DIGITS, "--mode=train", f"--workdir={workdir}", every, *words) == 0
    return checkpoints.path_of(workdir / "checkpoints", steps)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A checkpoint of ours after two steps."""
    return trained(tmp_path_factory.mktemp("digits") / "run", 2)


def test_ours_to_original_to_ours_is_exact(digits, tmp_path):
    theirs, back = tmp_path / "checkpoint_1.pth", tmp_path / "back.pt"
    assert run("--mode=convert", f"--checkpoint={digits}", f"--output={theirs}") == 0
    assert all(name.startswith("module.") for name in content_of(theirs)["model"])
    assert run(*DIGITS, "--mode=convert", f"--checkpoint={theirs}", f"--output={back}") == 0
    before, after = checkpoints.load(digits), checkpoints.load(back)
    for key in ("step", "network", "optimizer"):
        assert_same(_sorted(before[key]), _sorted(after[key]), key)
    assert_same(_sorted(before["ema"]), _sorted(after["ema"]))


def test_a_folder_of_shards_becomes_the_release_s_format_by_the_output_s_ending(digits, tmp_path):
    shards = checkpoints.save_shards(tmp_path, checkpoints.load(digits))
    one, other = tmp_path / "of_shards.pth", tmp_path / "of_the_file.pth"
    assert run("--mode=convert", f"--checkpoint={shards}", f"--output={one}") == 0
    assert run("--mode=convert", f"--checkpoint={digits}", f"--output={other}") == 0
    assert_same(content_of(one), content_of(other))


def test_weights_without_effect_come_back_as_zeros(tmp_path):
    config = config_of(
        (
            "--config=configs/vp/ddpm/cifar10_unconditional.py",
            "--config.model.nf=32",
            "--config.model.ch_mult=(1,1)",
            "--config.data.image_size=8",
            "--config.device=cpu",
        )
    )
    content = release(config)
    network = random_network(config, 0)
    unused = release_2021.uninformative(network)
    path = tmp_path / "checkpoint_1.pth"
    state = checkpoints.from_published(content, network, 0.9, "a file")
    checkpoints.save_published(path, state, network, {"lr": 2e-4})
    back = checkpoints.load_any(path)
    names = release_2021.trainable_order(network)
    assert set(unused) < set(names)
    for name, before, after in zip(
        names, content["ema"]["shadow_params"], back["ema"]["shadow_params"], strict=True
    ):
        assert torch.equal(after, torch.zeros_like(before) if name in unused else before)
        weight = back["model"][f"module.{name}"]
        assert not weight.any() if name in unused else weight.any()
    again = checkpoints.from_published(back, network, 0.9, path)
    for key in state:
        assert_same(_sorted(state[key]), _sorted(again[key]), key)


def _sorted(tree: object) -> object:
    return {k: _sorted(tree[k]) for k in sorted(tree)} if isinstance(tree, dict) else tree


def test_a_run_goes_on_from_a_converted_checkpoint(digits, tmp_path):
    theirs, folder = tmp_path / "checkpoint_1.pth", tmp_path / "run" / "checkpoints"
    assert run("--mode=convert", f"--checkpoint={digits}", f"--output={theirs}") == 0
    ours = checkpoints.path_of(folder, 2)
    assert run(*DIGITS, "--mode=convert", f"--checkpoint={theirs}", f"--output={ours}") == 0
    state = checkpoints.load(trained(tmp_path / "run", 3))
    assert state["ema"]["num_updates"] == 3
    assert f"converted_from {theirs}" in state["versions"]


# Sampling


def test_sampling_takes_a_published_file_as_it_is(published, tmp_path):
    words = (*NCSNPP, "--mode=sample", f"--checkpoint={published}", "--num_samples=2")
    assert run(*words, f"--workdir={tmp_path}", f"--output={tmp_path / 'a.npz'}") == 0
    assert run(*words, f"--workdir={tmp_path}", f"--output={tmp_path / 'raw.npz'}", "--raw") == 0
    averaged, raw = (np.load(tmp_path / name)["images"] for name in ("a.npz", "raw.npz"))
    assert averaged.shape == (2, 32, 32, 3)
    assert (averaged != raw).any()


def test_names_may_lack_the_prefix_and_the_numpy_may_be_an_old_one(published, tmp_path):
    content = content_of(published)
    content["model"] = {k.removeprefix("module."): v for k, v in content["model"].items()}
    torch.save(content, tmp_path / "bare.pth")
    with (
        zipfile.ZipFile(tmp_path / "bare.pth") as new,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as old,
    ):
        for name in new.namelist():
            data = new.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(name, data)
    config = config_of(NCSNPP)
    expected = checkpoints.load_official(published, config).state_dict()
    for name in ("bare.pth", "old.pth"):
        assert_same(expected, checkpoints.load_official(tmp_path / name, config).state_dict())
    group = checkpoints.load_any(tmp_path / "old.pth")["optimizer"]["param_groups"][0]
    assert type(group["lr"]) is float
    assert group["lr"] == 2e-4


class BigEndian:
    """A scalar as a machine of the other byte order pickles it."""

    def __reduce__(self):
        return np.float64(1).__reduce__()[0], (np.dtype(">f8"), np.array(0.1, ">f8").tobytes())


@pytest.mark.parametrize("number", [np.float64(0.1), np.float32(0.1), np.int64(-5), np.bool_(1)])
def test_numpy_numbers_become_numbers(tmp_path, number):
    torch.save({"number": number, "big": BigEndian()}, tmp_path / "file.pth")
    read = checkpoints.load_any(tmp_path / "file.pth")
    assert type(read["number"]) is type(number.item())
    assert read == {"number": number.item(), "big": 0.1}


# NCSN and NCSNv2


@pytest.mark.parametrize(
    ("recipe", "length"), [(NCSN_V1, 2), (NCSN_V2, 2), (NCSN_V2, 4), (NCSN_V2, 5)]
)
def test_the_lists_of_ncsn_and_ncsnv2_are_read(tmp_path, recipe, length):
    config = config_of(recipe)
    network, average = random_network(config, 1), random_network(config, 2)
    weights, averages = release_2021.dump(network), release_2021.dump(average)
    averages.pop("sigmas", None)  # only weights are averaged
    theirs = [
        {f"module.{name}": value.float() for name, value in weights.items()},
        optimizer_of(network, first_key=140_000_000_000),  # places as old versions of torch gave
        3,
        900,
        averages,
    ][:length]
    path = tmp_path / "checkpoint.pth"
    torch.save(theirs, path, _use_new_zipfile_serialization=False)
    used = average if length == 5 else network
    assert_same(used.state_dict(), checkpoints.load_official(path, config).state_dict())
    ours = tmp_path / "ours.pt"
    assert run(*recipe, "--mode=convert", f"--checkpoint={path}", f"--output={ours}") == 0
    state = checkpoints.load(ours)
    assert state["step"] == (900 if length > 2 else 7)
    assert_same(network.state_dict(), dict(state["network"]))
    assert state["ema"]["decay"] == config.model.ema_rate
    build_state(config).load_state_dict(state)
    assert len(state["optimizer"]) == len(theirs[1]["state"])
    first = theirs[1]["param_groups"][0]["params"][0]
    expected = theirs[1]["state"][first]["exp_avg"]
    assert torch.equal(state["optimizer"]["begin_conv.weight"]["exp_avg"], expected)


# Refused


def sample_words(path: Path) -> tuple[str, ...]:
    return (*NCSNPP, "--mode=sample", f"--checkpoint={path}", f"--workdir={path.parent}")


def test_a_truncated_file_is_one_sentence(published, tmp_path, capsys):
    content = published.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 30):
        (tmp_path / "cut.pth").write_bytes(content[:size])
        said = sentence(capsys, *sample_words(tmp_path / "cut.pth"))
        assert "cut.pth is damaged or not a checkpoint" in said
    torch.save(release(config_of(NCSNPP)), tmp_path / "a", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a").read_bytes()[:100_000])
    assert "damaged" in sentence(capsys, *sample_words(tmp_path / "cut.pth"))


def test_a_renamed_key_is_named_by_both_names(published, tmp_path, capsys):
    content = content_of(published)
    model = content["model"]
    model["module.all_modules.4.Conv_9.weight"] = model.pop("module.all_modules.4.Conv_0.weight")
    torch.save(content, tmp_path / "renamed.pth")
    said = sentence(capsys, *sample_words(tmp_path / "renamed.pth"))
    assert "renamed.pth" in said
    assert "all_modules.4.Conv_9.weight is left over" in said
    assert "all_modules.4.Conv_0.weight (down.0.blocks.0.conv_0.weight here) is missing" in said


def test_the_wrong_recipe_is_one_sentence_of_bounded_length(published, tmp_path, capsys):
    words = sample_words(published)
    for wrong in ("--config.model.nf=32", "--config.model.num_res_blocks=3"):
        said = sentence(capsys, *words, wrong)
        assert str(published) in said
        assert "do not fit this NCSNpp" in said
        assert "the configuration they were trained with" in said
        assert "more" in said
        assert len(said) < 5000
    said = sentence(capsys, *words, "--config.model.sigma_max=60.0")
    assert "sigmas runs from 50" in said
    recipe = [word for word in words if "--config.model" not in word][1:]
    said = sentence(capsys, "--config=configs/vp/ddpm/cifar10.py", *recipe)
    assert "do not fit this DDPM" in said


def change(content: dict, kind: str) -> None:
    optimizer, shadow = content["optimizer"], content["ema"]["shadow_params"]
    if kind == "shape":
        shadow[0] = shadow[0][:1]
    elif kind == "short":
        shadow.pop()
    elif kind == "places":
        optimizer["param_groups"][0]["params"].pop()
    elif kind == "moment":
        optimizer["state"][3]["exp_avg"] = torch.zeros(2)
    elif kind == "other":
        optimizer["state"][3] = {"momentum_buffer": torch.zeros(2)}
    elif kind == "word":
        content["model"]["module.all_modules.1.bias"] = "zero"
    else:
        del content["ema"]


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("shape", "all_modules.1.weight ("),
        ("short", "its average (ema) holds"),
        ("places", "its optimizer has"),
        ("moment", "exp_avg of all_modules.2.weight ("),
        ("other", "only the state of Adam"),
        ("word", "is 'zero' instead of a tensor"),
        ("gone", "no published checkpoint (it lacks ema)"),
    ],
)
def test_other_contents_are_refused_in_one_sentence(published, tmp_path, capsys, kind, named):
    content = content_of(published)
    change(content, kind)
    torch.save(content, tmp_path / "file.pth")
    said = sentence(capsys, *sample_words(tmp_path / "file.pth"))
    assert named in said
    assert "file.pth" in said


class Attack:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_malicious_pickle_is_never_run(published, tmp_path, capsys, new_format):
    victim, path = tmp_path / "victim", tmp_path / "evil.pth"
    content = content_of(published) | {"step": Attack(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    for words in (
        sample_words(path),
        (*NCSNPP, "--mode=convert", f"--checkpoint={path}", f"--output={tmp_path / 'out'}"),
        (*DIGITS, "--mode=train", f"--init_from={path}", f"--workdir={tmp_path / 'run'}"),
    ):
        assert "is refused, as it holds more than" in sentence(capsys, *words)
    with pytest.raises(checkpoints.CheckpointError, match="is refused"):
        checkpoints.load_official(path, config_of(NCSNPP))
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists()  # so the attack was a real one


def test_other_objects_of_numpy_are_refused(tmp_path):
    for name, value in (("array", np.ones(3)), ("text", np.str_("a")), ("kind", np.dtype("O"))):
        torch.save({"value": value}, tmp_path / name)
        with pytest.raises(checkpoints.CheckpointError, match="refused"):
            checkpoints.load_any(tmp_path / name)


def test_converting_says_what_is_missing(published, digits, tmp_path, capsys):
    convert, out = ("--mode=convert", f"--checkpoint={published}"), tmp_path / "out"
    assert "name its recipe" in sentence(capsys, *convert, f"--output={out}")
    assert "--output" in sentence(capsys, *NCSNPP, *convert)
    assert "no checkpoint" in sentence(
        capsys, "--mode=convert", "--checkpoint=nowhere.pth", f"--output={out}"
    )
    out.touch()
    assert "exists" in sentence(capsys, *NCSNPP, *convert, f"--output={out}")
    assert "no published checkpoint" in _refused_by_load_official(digits)


def _refused_by_load_official(path: Path) -> str:
    with pytest.raises(checkpoints.CheckpointError) as caught:
        checkpoints.load_official(path, config_of(DIGITS))
    return str(caught.value)


# Training from published weights


def test_a_run_begins_with_the_averaged_weights_of_either_format(digits, tmp_path):
    theirs = tmp_path / "checkpoint_1.pth"
    assert run("--mode=convert", f"--checkpoint={digits}", f"--output={theirs}") == 0
    shadow = checkpoints.load(digits)["ema"]["shadow"]
    states = []
    for source in (digits, theirs):
        work = tmp_path / source.stem
        # The first update of a warm-up has a rate of 0: the weights are still the first ones.
        path = trained(work, 1, f"--init_from={source}", "--config.optim.warmup=5000")
        states.append(checkpoints.load(path))
        assert_same(_sorted(shadow), _sorted(states[-1]["network"]))
        assert_same(_sorted(shadow), _sorted(states[-1]["ema"]["shadow"]))
        assert states[-1]["step"] == states[-1]["ema"]["num_updates"] == 1
        _, digest = checkpoints.load_with_fingerprint(source)
        origin = f"init_from {source} (step 2, sha256 {digest})"
        assert origin in states[-1]["versions"]
        log = (work / "log.txt").read_text()
        assert origin in log
        assert "warning" not in log
        assert json.loads((work / "config.json").read_text())["origin"] == origin
    assert_same(_sorted(states[0]["optimizer"]), _sorted(states[1]["optimizer"]))


def test_weights_that_were_trained_to_put_out_something_else_are_warned_of(digits, tmp_path):
    trained(tmp_path, 1, f"--init_from={digits}", "--config.model.prediction=denoised")
    log = (tmp_path / "log.txt").read_text()
    theirs, ours = (
        f"vpsde (output {output}, told 999 at the most noise)" for output in ("noise", "denoised")
    )
    said = f"the weights of {digits} were trained for {theirs}, and this run trains for {ours}: "
    assert f"warning: {said}they fit by their shapes alone" in log


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("vp/digits",), ""),
        (("vp/digits", "training.continuous=False"), ""),  # told 996 for 999, at the same level
        (("vp/digits", "model.beta_max=10.0"), "vpsde (output noise, told 999"),
        (("vp/digits", "training.continuous=False", "model.num_scales=100"), "vpsde (output"),
        (("vp/digits", "model.prediction=v"), "vpsde (output v"),
        (("edm/digits",), "karrasvesde (output edm, told 438.2 at the most noise)"),
        (("ve/digits",), "vesde (output score, told 6 at the most noise)"),
    ],
)
def test_conventions_differ_in_output_time_label_or_sde(words, told):
    recipe, *fields = words
    given = (f"--config={recipe}", *(f"--config.{field}" for field in fields))
    written, here = history.to_json(config_of(DIGITS)), config_of(given)
    said = adopted.of_other_conventions(written, here, Path("a.pt"))
    assert (f"this run trains for {told}" in said) == bool(said) == bool(told)


def test_edm_s_output_means_something_else_with_another_sigma_data():
    edm = "--config=edm/digits"
    written = history.to_json(config_of((edm,)))
    same, other = (config_of((edm, f"--config.model.sigma_data={std}")) for std in (0.75, 0.5))
    assert not adopted.of_other_conventions(written, same, Path("a.pt"))
    assert adopted.of_other_conventions(written, other, Path("a.pt"))


def test_the_same_command_resumes_and_keeps_the_origin(digits, tmp_path, capsys):
    work, wish = tmp_path / "run", f"--init_from={digits}"
    trained(work, 1, wish)
    assert f"init_from {digits}" in checkpoints.load(trained(work, 2, wish))["versions"]
    assert f"init_from {digits}" in checkpoints.load(trained(work, 3))["versions"]
    steps = "--config.training.n_iters=4"
    words = (*DIGITS, "--mode=train", f"--workdir={work}", steps)
    assert "did not begin with" in sentence(capsys, *words, "--init_from=other.pt")


def test_a_run_does_not_begin_with_other_weights(published, tmp_path, capsys):
    words = (*DIGITS, "--mode=train", f"--workdir={tmp_path / 'run'}")
    assert "do not fit" in sentence(capsys, *words, f"--init_from={published}")
    assert "there is no checkpoint" in sentence(capsys, *words, "--init_from=nowhere.pt")
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == []
    said = sentence(capsys, *sample_words(published), f"--init_from={published}")
    assert "--init_from has no use in --mode" in said

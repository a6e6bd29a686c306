"""`score_sde.load`: what a work directory, a file or a folder gives, against the command line."""

import dataclasses
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY

import score_sde
from configs.vp.digits import get_config
from score_sde import checkpoints
from score_sde.commands import cli
from score_sde.samplers import ODESampler
from score_sde.tensor_ops import UnknownName

STEPS = "--config.sampling.num_steps=4"


def run(*words):
    assert cli.main(["main.py", *map(str, words)]) == 0


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load") / "run"
    run("--config=configs/vp/digits.py", f"--workdir={folder}", "--mode=train", *TINY, STEPS)
    return folder


def drawn(folder, *more):
    run(
        "--config=configs/vp/digits.py",
        "--mode=sample",
        "--num_samples=5",
        f"--output={folder / 'images.npz'}",
        *("--config.device=cpu", STEPS),
        *more,
    )
    with np.load(folder / "images.npz") as file:
        return torch.from_numpy(file["images"]).permute(0, 3, 1, 2)


def to_uint8(images):
    return (images * 255).round().to(torch.uint8)


def test_a_work_directory_gives_its_newest_checkpoint(workdir, tmp_path):
    trained = score_sde.load(workdir, device="cpu")
    state = checkpoints.load(checkpoints.path_of(workdir / "checkpoints", 4))
    assert trained.step == 4
    assert trained.path == checkpoints.path_of(workdir / "checkpoints", 4)
    for name, value in trained.network.state_dict().items():
        assert torch.equal(value, state["ema"]["shadow"][name])
    assert not trained.network.training
    assert trained.sde.name == "vpsde"
    images = trained.draw(5)
    assert images.shape == (5, 1, 8, 8)
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(to_uint8(images), drawn(tmp_path, f"--workdir={workdir}"))
    assert torch.equal(trained.draw(2), images[:2])


def test_the_seed_and_the_recipe_decide_on_the_images(workdir, tmp_path):
    trained = score_sde.load(workdir, device="cpu")
    seeded = drawn(tmp_path, f"--workdir={workdir}", "--config.seed=7")
    assert torch.equal(to_uint8(trained.draw(5, seed=7)), seeded)
    assert not torch.equal(to_uint8(trained.draw(5)), seeded)
    # A recipe decides how to sample; the network remains that of the checkpoint.
    recipe = score_sde.load(workdir, "vp/digits", device="cpu")
    assert recipe.sampler.num_steps == 100
    assert recipe.config.model.nf == 8


def test_the_score_is_that_of_the_network(workdir):
    trained = score_sde.load(workdir, device="cpu")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        score = trained.score(x, t)
        noise = trained.network(x, 999 * t)
    expected = -noise / trained.sde.std(t)[:, None, None, None]
    torch.testing.assert_close(score, expected)


def test_another_sampler_can_be_drawn_by(workdir):
    trained = score_sde.load(workdir, device="cpu")
    ode = ODESampler(trained.sde, rtol=1e-2, atol=1e-2, eps=1e-2)
    images = dataclasses.replace(trained, sampler=ode).draw(2)
    assert images.shape == (2, 1, 8, 8)
    assert not torch.equal(images, trained.draw(2))


def test_fields_of_sampling_give_the_sampler_that_the_command_line_has_for_them(workdir):
    trained = score_sde.load(workdir, device="cpu")
    ddim = trained.drawing_by(method="ddim", num_steps=4)
    config = trained.config.copy_and_resolve_references()
    config.sampling.update(method="ddim", num_steps=4)
    assert torch.equal(ddim.draw(2), score_sde.load(workdir, config).draw(2))
    assert not torch.equal(ddim.draw(2), trained.draw(2))
    assert trained.config.sampling.method == "pc"
    assert repr(ddim).endswith("step 4: ncsnpp, vpsde, drawing by ddim")
    with pytest.raises(ValueError, match=r"'methd': it must be .*did you mean 'method'"):
        trained.drawing_by(methd="ddim")
    with pytest.raises(ValueError, match="did you mean 'ddim'"):
        trained.drawing_by(method="dim")
    with pytest.raises(
        ValueError, match="num_steps='ten': this field takes a value of type int, as 4"
    ):
        ddim.drawing_by(num_steps="ten")


def test_a_file_of_ours_or_published_and_the_raw_weights(workdir, tmp_path):
    ours = checkpoints.path_of(workdir / "checkpoints", 2)
    raw = score_sde.load(ours, device="cpu", raw=True)
    state = checkpoints.load(ours)
    for name, value in raw.network.state_dict().items():
        assert torch.equal(value, state["network"][name])
    published = tmp_path / "checkpoint_2.pth"
    run("--mode=convert", f"--checkpoint={ours}", f"--output={published}")
    with pytest.raises(ValueError, match="name its recipe"):
        score_sde.load(published)
    config = score_sde.load(ours, device="cpu").config
    given = score_sde.load(published, config)
    assert torch.equal(given.draw(2), score_sde.load(ours, config).draw(2))


def test_a_folder_of_diffusers_with_its_recipe(tmp_path):
    pytest.importorskip("safetensors")
    skip = (
        "--config.model.progressive=output_skip",
        "--config.model.progressive_input=input_skip",
    )
    recipe = ("--config=configs/ve/colour_digits.py", "--mode=train", *TINY, STEPS, *skip)
    run(f"--workdir={tmp_path / 'run'}", *recipe)
    ours = checkpoints.path_of(tmp_path / "run" / "checkpoints", 4)
    run("--mode=convert", f"--checkpoint={ours}", f"--output={tmp_path / 'unet'}")
    own = score_sde.load(ours, device="cpu")
    given = score_sde.load(tmp_path / "unet", own.config)
    torch.testing.assert_close(given.draw(2), own.draw(2), atol=1e-5, rtol=0)


def test_what_is_not_there_is_one_sentence(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        score_sde.load(tmp_path / "none")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no checkpoint: train first"):
        score_sde.load(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"did you mean configs/vp/digits\.py"):
        score_sde.load(workdir, "vp/digit")


def test_a_name_that_only_a_recipe_knows_is_refused_with_the_remedy(workdir, tmp_path, capsys):
    state = checkpoints.load(checkpoints.path_of(workdir / "checkpoints", 4))
    for known, unknown in (("vpsde", "mine"), ("ncsnpp", "my_network")):
        config, path = state["config"].replace(f'"{known}"', f'"{unknown}"'), f"{unknown}.pt"
        checkpoints.save_as(tmp_path / path, {**state, "config": config})
        words = rf"'{unknown}'.*{unknown}\.pt was trained with it: .* name the recipe too"
        for recipe in (None, "vp/digits"):
            with pytest.raises(UnknownName, match=words):
                score_sde.load(tmp_path / path, recipe, device="cpu")
        given = f"--checkpoint={tmp_path / path}"
        for mode in (("--mode=convert",), ("--mode=eval", "--config=vp/digits")):
            more = (f"--output={tmp_path / 'out'}",) if "--mode=convert" in mode else ()
            assert cli.main(["main.py", *mode, given, *more]) == 1
            assert re.search(f"{words}, --config mine.py", capsys.readouterr().err)
    # A name that the checkpoint does not bring is the recipe's own mistake.
    with pytest.raises(UnknownName, match="'odd'") as refused:
        score_sde.load(workdir, "vp/digits").drawing_by(method="odd")
    assert "name the recipe" not in str(refused.value)


def test_what_the_checkpoint_decides_against_the_recipe_is_said(workdir, tmp_path, capsys):
    words = (
        f"--workdir={workdir}",
        "--mode=sample",
        "--num_samples=1",
        "--config.device=cpu",
        STEPS,
    )
    run("--config=ve/digits", *words, f"--output={tmp_path / 've.npz'}")
    said = "of the checkpoint, not of the recipe: training.sde='vpsde', "
    assert said in capsys.readouterr().out
    own = tmp_path / "own.py"
    written = checkpoints.load(checkpoints.path_of(workdir / "checkpoints", 4))["config"]
    own.write_text(
        "from score_sde.config import history\n\n\n"
        f"def get_config():\n    return history.from_json({written!r})\n"
    )
    run(f"--config={own}", *words, f"--output={tmp_path / 'own.npz'}")
    assert "of the checkpoint" not in capsys.readouterr().out


def test_the_readme_begins_its_notebook_section_with_it(workdir, tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text().partition("## In a notebook")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert "score_sde.load(" in code
    restoring = (ROOT / "docs" / "steering.md").read_text()
    (more,) = re.findall(r"```python\n(.*?)```", restoring, flags=re.DOTALL)
    assert "POSTERIORS[" in more
    shutil.copytree(workdir, tmp_path / "runs" / "edm" / "digits")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (16, 1, 8, 8)
    assert names["gradient"].shape == (16, 1, 8, 8)
    exec(more, names)
    assert names["sharp"].shape == (16, 1, 8, 8)


def test_importing_the_library_loads_no_torch():
    code = "import sys, score_sde; assert 'torch' not in sys.modules and callable(score_sde.load)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_a_sampler_gave_up_on_is_told(workdir):
    config = get_config()
    config.sampling.update(method="ode", max_steps=2)
    with pytest.warns(UserWarning, match=r"gave up on images \[0, 1\].*raise sampling.max_steps"):
        score_sde.load(workdir, config).draw(2)


def test_images_that_are_no_numbers_are_refused(workdir):
    trained = score_sde.load(workdir)
    next(trained.network.parameters()).data.fill_(math.nan)
    with pytest.raises(ValueError, match="128 of 128 pixel values are not finite"):
        trained.draw(2)
    with pytest.raises(ValueError, match="n=0: draw at least one"):
        trained.draw(0)

"""What is left for a GPU, `pytest -m gpu`; and `benchmarks.gpu` in small, without one."""

import json

import pytest
import torch
from networks import assert_images_close, build, golden_weights
from test_networks_unets import GOLDEN

from benchmarks import gpu
from benchmarks.gpu_checks import CHECKS
from score_sde.checkpoints import release_2021
from score_sde.config.build import allow_tf32

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", CHECKS)
def test_the_gpu_gives_what_the_cpu_gives(name):
    allow_tf32(False)
    assert CHECKS[name].measure("cuda") <= CHECKS[name].limit


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("tf32", "tolerance"), [(False, 1e-4), (True, 1e-2)])
@pytest.mark.parametrize("name", GOLDEN)
def test_networks_give_the_releases_numbers(golden, name, tf32, tolerance):
    arrays, config = golden.arrays(f"nets/{name}"), golden.json(f"nets/{name}")["config"]
    net = build(config).eval()
    release_2021.load(net, golden_weights(arrays))
    allow_tf32(tf32)
    try:
        with torch.no_grad():
            out = net.cuda()(arrays["x"].cuda(), arrays["cond"].cuda())
    finally:
        allow_tf32(False)
    assert_images_close(out.cpu(), arrays["y"], tolerance)


def test_without_a_gpu_one_sentence_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main(["--only", "train"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--device cpu --smoke" in said


@pytest.mark.slow
def test_every_section_runs_in_small(tmp_path):
    assert gpu.main(["--device", "cpu", "--smoke", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(gpu.SECTIONS) <= set(found)
    for rows in (found[name] for name in gpu.SECTIONS):
        assert rows
        assert not any("failed" in row for row in rows), rows
    assert all(row["gflop"] > 0 for name in ("train", "sample", "bpd") for row in found[name])
    assert {row["check"] for row in found["correct"]} == set(CHECKS)
    assert all(row["off"] <= CHECKS[row["check"]].limit for row in found["correct"])
    (long,) = found["long"]
    assert 30 == long["resumed to"] > long["killed at"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name}" in text for name in gpu.SECTIONS)
    assert (tmp_path / "ship" / "weights.pt").stat().st_size < 10e6

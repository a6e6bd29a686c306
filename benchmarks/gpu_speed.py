"""Sections of `benchmarks.gpu` that time: training steps, samplers, bits/dim."""

import itertools
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import bits_per_dim, routes
from benchmarks.gpu_given import Given, Rows, flops_of
from score_sde import likelihoods
from score_sde.config.build import (
    allow_tf32,
    autocast_dtype,
    build_sampler,
    build_score,
    build_sde,
    build_state,
    image_shape,
    set_tf32,
)
from score_sde.likelihoods.divergence import value_and_divergence
from score_sde.samplers import GridSampler

RECIPES = ("ve/cifar10_ncsnpp_continuous", "vp/cifar10_ddpmpp_continuous")
DEEP = "ve/cifar10_ncsnpp_deep_continuous"
METHODS = {"pc": 1000, "dpm_solver++": 20, "heun": 17, "ode": 0}
"""Of `sampling.method`, and steps: pc's take two evaluations each."""


def told(row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row with its figures, or with what failed, such as the memory."""
    try:
        return row | measure()
    except Exception as error:
        traceback.print_exc()
        return row | {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}


def train(given: Given) -> Rows:
    """Training steps, by recipe, batch, precision and formulation."""
    rows = []
    batches = (2,) if given.smoke else (128, 512) if given.full else (128,)
    recipes = (*RECIPES, DEEP) if given.full else RECIPES
    modes = itertools.product(
        ("float32", "bf16") if given.smoke else ("float32", "tf32", "bf16"),
        ("off",) if given.smoke else ("off", "on"),
        ("on", "off") if given.full else ("auto",),
    )
    ways = [("ours", *mode) for mode in modes]
    ways += [(name, "float32", "off", "off") for name in (routes.NAIVE, "diffusers")]
    for recipe, batch in itertools.product(recipes, batches):
        for way in ways if recipe == RECIPES[0] else ways[:-2]:
            row: dict[str, Any] = {"recipe": recipe, "batch": batch}
            row |= zip(("way", "precision", "compiled", "channels_last"), way, strict=True)
            rows.append(told(row, lambda row=row: _training(given, row)))
    best = max((row for row in rows if "images/s" in row), key=lambda row: row["images/s"])
    _profile(given, best)
    return rows


def _training(given: Given, row: dict[str, Any]) -> dict[str, Any]:
    step, images = _step(given, row)
    flops = flops_of(lambda: step(images[:1])) * len(images)  # compiled ones are counted eagerly
    if row["compiled"] == "on":
        step, images = _step(given, row, compile_it=True)
    if given.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    seconds = given.seconds(lambda: step(images))
    figures = {"ms": round(1e3 * seconds, 2), "images/s": round(len(images) / seconds, 1)}
    if given.device != "cpu":
        figures["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return figures | given.share(flops, seconds)


def _step(
    given: Given, row: dict[str, Any], compile_it: bool = False
) -> tuple[Callable[[Tensor], object], Tensor]:
    config = given.recipe(row["recipe"])
    if row["way"] != "ours" and given.smoke:  # these are written for the recipe's own blocks
        config.model.nf, config.data.image_size, config.model.ch_mult = 32, 16, (1, 1)
        config.model.attn_resolutions = (16,)
    config.training.precision = row["precision"]
    config.training.channels_last = row["channels_last"]
    config.training.compile = "on" if compile_it else "off"
    config.training.batch_size = row["batch"]
    set_tf32(config)
    made = routes.ours(config)
    if row["way"] == routes.NAIVE:
        made = routes.naive_of(config, made.network)
    elif row["way"] == "diffusers":
        made = routes.diffusers(config, skip=True)
    if row["way"] != "ours":
        made.network.to(given.device)
    made.network.train()
    return made.step, given.images(config, row["batch"])


def _profile(given: Given, row: dict[str, Any]) -> None:
    step, images = _step(given, row, compile_it=row["compiled"] == "on")
    step(images)
    with torch.profiler.profile() as found:
        step(images)
        given.wait()
    by = "self_cpu_time_total" if given.device == "cpu" else "self_device_time_total"
    text = found.key_averages().table(sort_by=by, row_limit=25)
    (given.output / "profile.txt").write_text(f"{row}\n\n{text}\n")


def sample(given: Given) -> Rows:
    """Samplers, eager and compiled, and the share of their time that is not the network's."""
    rows = []
    compilers = ("off",) if given.smoke else ("off", "on", "graphs")
    for (method, steps), compiled in itertools.product(METHODS.items(), compilers):
        row = {"method": method, "steps": steps, "compiled": compiled}
        rows.append(told(row, lambda row=row: _sampling(given, row)))
    return rows


def _sampling(given: Given, row: dict[str, Any]) -> dict[str, Any]:
    config, steps = given.recipe(RECIPES[0]), row["steps"]
    batch = 2 if given.smoke else 64
    config.sampling.method, config.training.precision = row["method"], "bf16"
    config.sampling.num_steps = min(steps, 2) if given.smoke else steps
    config.sampling.rtol = config.sampling.atol = 1e-2 if given.smoke else 1e-5
    set_tf32(config)
    state = build_state(config)
    network: nn.Module = state.network.eval()
    x, sigma = given.images(config, batch), torch.ones(batch, device=given.device)
    with torch.no_grad():
        flops = flops_of(lambda: network(x[:1], sigma[:1]))
    if row["compiled"] != "off":
        mode = "reduce-overhead" if row["compiled"] == "graphs" else None
        network = torch.compile(network, mode=mode)  # type: ignore[assignment]

    def net(*inputs: Tensor, **more: Tensor) -> Tensor:
        if row["compiled"] == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(given.device, dtype=autocast_dtype(config)):
            return network(*inputs, **more).float().clone()

    sde = build_sde(config)
    score, sampler = build_score(config, net, sde), build_sampler(config, sde)
    index, nfe = torch.arange(batch), 0.0

    def draw(score: Any) -> None:
        nonlocal nfe
        options = {"seed": 0, "batch_size": batch, "device": given.device}
        (found,) = sampler.draw(lambda _: score, index, image_shape(config), **options)
        nfe = found.nfe.double().mean().item()

    given = replace(given, rounds=1)  # a run is many evaluations
    with torch.no_grad():
        for _ in range(3):  # it is compiled, and a graph is captured
            net(x, sigma)
    seconds = given.seconds(lambda: draw(score), warm=0)
    made = {"s": round(seconds, 3), "images/s": float(f"{batch / seconds:.4g}"), "nfe": nfe}
    made |= given.share(flops * batch * nfe, seconds)
    if isinstance(sampler, GridSampler):  # the same walk with a score that costs nothing
        free = given.seconds(lambda: draw(lambda x, t: -x), warm=0)
        made["beside the network"] = float(f"{free / seconds:.3g}")
    return made


def bpd(given: Given) -> Rows:
    """bits/dim of VP's network by each route."""
    config = given.recipe(RECIPES[1])
    allow_tf32(True)
    sde, network = build_sde(config), build_state(config).network.eval()
    score, count = build_score(config, network, sde), 4 if given.smoke else 64
    x = given.images(config, count)
    index = torch.arange(count, device=given.device)
    probe = likelihoods.hutchinson_probes("Rademacher", x.shape[1:], index, seed=0)

    def once() -> None:
        x_1 = x[:1]
        # The counter's hooks bear no leaf as a module's input under `autograd.grad`.
        value_and_divergence(lambda x: score(1 * x, x.new_full((1,), 0.5)), x_1, probe[:, :1])

    flops, rows = flops_of(once), []
    for name, route in bits_per_dim.routes(sde, lambda _: score, x, probe).items():
        start = time.perf_counter()
        found, seen = route(1e-1 if given.smoke else 1e-5)
        given.wait()
        seconds = time.perf_counter() - start
        row = {"route": name, "images/s": float(f"{count / seconds:.4g}")}
        row |= {"passes an image": seen / count, "evaluations": found.nfe.double().mean().item()}
        rows.append(row | given.share(flops * seen, seconds))
    return rows

"""Rows of the group sampling: how samples are drawn, in snapshots and from checkpoints."""

from score_sde.config.holds import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    INTERVAL,
    PATH,
    PROBABILITY,
    SHARE,
    Names,
    Number,
    up_to,
)
from score_sde.config.schema.field import PART, Field, added, counted_from_1, free

FIELDS: dict[str, Field] = {
    "sampling.method": free(
        "pc",
        "pc: predictor and corrector; a sampler that chooses its own times; or a few-step solver",
        Names(
            "pc",
            table="score_sde.samplers:SAMPLERS",
            more="score_sde.solvers.few_step:FEW_STEP",
        ),
    ),
    "sampling.num_steps": free(0, "steps; 0: the chain's own number of scales", up_to(10**7)),
    "sampling.batch_size": free(64, "images drawn at a time", AT_LEAST_1),
    "sampling.compile": added(
        False, "torch.compile of the network, which is then given full batches alone"
    ),
    "sampling.predictor": free(
        "reverse_diffusion",
        "of pc: the step from one time to the next",
        Names(table="score_sde.solvers.predictors:PREDICTORS"),
    ),
    "sampling.corrector": free(
        "none",
        "of pc: the steps at each time",
        Names(table="score_sde.solvers.correctors:CORRECTORS"),
    ),
    "sampling.n_steps_each": free(
        1, "corrector steps at each time", counted_from_1("sampling.corrector=none makes none")
    ),
    "sampling.snr": free(
        0.16,
        "signal-to-noise ratio of the Langevin step",
        Number(
            ABOVE_0.words,
            ABOVE_0.within,
            "it must be above 0; sampling.corrector=none makes no Langevin step",
        ),
    ),
    "sampling.norms": free(
        "sample",
        "norms in the Langevin step: each sample's (below 64 dimensions those expected of it), or "
        "the batch's mean as in the 2021 release",
        Names("sample", "batch"),
    ),
    "sampling.corrector_first": free(True, "correct before each prediction, or after it"),
    "sampling.resample": free(
        1,
        "how often each step of a completion is taken, noised back between (Lugmayr et al. 2022)",
        AT_LEAST_1,
        older=1,
    ),
    "sampling.probability_flow": free(False, "predict along the probability-flow ODE"),
    "sampling.noise_removal": free(
        True, "the last step returns its mean; ODE and few-step solvers end with Tweedie's formula"
    ),
    "sampling.grid": free(
        "auto",
        "where the times stand; auto: as suits step and SDE; optimised: found for this network "
        "(in the snapshots of training log_snr); a discrete chain has times of its own",
        Names("auto", "uniform", "log_snr", "edm", "optimised"),
    ),
    "sampling.threshold": free(
        "none",
        "keep denoised images to the data's range: clip them, or by a quantile of each "
        "(Saharia et al. 2022)",
        Names("none", "static", "dynamic"),
        older="none",
    ),
    "sampling.label": free(
        -1,
        "class of every sample; -1: each in turn, sample k of class k mod their number",
        Number("-1 or a class, from 0 up", lambda x: x >= -1),
        older=-1,
    ),
    "sampling.guidance": free(
        1.0,
        "scale w of classifier-free guidance, s_u + w (s_c - s_u); 1: none, 0: of no class",
        AT_LEAST_0,
        older=1.0,
    ),
    "sampling.guidance_interval": free(
        (),
        "noise levels std/mean scale between which it acts; (): at all",
        INTERVAL,
        older=(),
    ),
    "sampling.fit": free(
        "resize",
        "how images of --input are brought to the network's size: resize, crop or pad; tile: they "
        "keep theirs, and the network is given overlapping tiles",
        Names(table="score_sde.data.fits:FITS"),
        older="resize",
    ),
    "sampling.tile_overlap": free(
        0.5,
        "least share of its side that a tile has in common with the next; 0: none",
        SHARE,
        older=0.5,
    ),
    "sampling.classifier": free(
        "",
        "a classifier of noisy images that leads samples: its checkpoint, or its work directory; "
        "empty: none",
        PATH,
        older="",
    ),
    "sampling.classifier_scale": free(
        1.0, "scale v of its gradient, v grad log p(c | x_t); 0: none", AT_LEAST_0, older=1.0
    ),
    "sampling.guide": free(
        "",
        "a weaker network that guidance leads away from (Karras et al. 2024): its checkpoint, or "
        "its work directory; empty: the network's own score of no class",
        PATH,
        older="",
    ),
    "sampling.temperature": free(
        1.0,
        "what draws from the prior are scaled by, for methods without noise of their own",
        ABOVE_0,
        older=1.0,
    ),
    "sampling.strength": free(
        0.5,
        "of --mode edit: the share of the sampler's grid that images are led back along",
        PART,
        older=0.5,
    ),
    "sampling.image_noise": free(
        0.0,
        "of an upsampler: std of the noise on the low-resolution images that it draws from",
        AT_LEAST_0,
        older=0.0,
    ),
    "sampling.eps": free(
        0.0, "time at which sampling ends, but on a discrete chain; 0: the SDE's own", AT_LEAST_0
    ),
    "sampling.ode_solver": free(
        "rk45",
        "Runge-Kutta method of the adaptive ODE",
        Names(table="score_sde.solvers.ode:ODE_SOLVERS"),
        older="rk45",
    ),
    "sampling.step_control": free(
        "i",
        "how its steps follow from their errors; pi: from the last two, as rejects fewer",
        Names(table="score_sde.solvers.ode:STEP_CONTROLS"),
        older="i",
    ),
    "sampling.rtol": free(1e-5, "relative tolerance of the adaptive ODE", ABOVE_0),
    "sampling.atol": free(1e-5, "absolute tolerance of the adaptive ODE", ABOVE_0),
    "sampling.sde_rtol": free(0.02, "relative tolerance of the adaptive SDE", ABOVE_0, older=0.02),
    "sampling.sde_atol": free(
        0.0,
        "absolute tolerance of the adaptive SDE; 0: one grey level of 256",
        AT_LEAST_0,
        older=0.0,
    ),
    "sampling.max_steps": free(
        10000, "of adaptive samplers, after which they give up", AT_LEAST_1
    ),
    "sampling.eta": free(
        0.0,
        "noise of DDIM's steps: 0 none, 1 that of ancestral sampling (Song, J. et al. 2021)",
        PROBABILITY,
        older=0.0,
    ),
    "sampling.s_churn": free(
        0.0, "noise that Heun's method adds (Karras et al. 2022, algorithm 2)", AT_LEAST_0
    ),
    "sampling.s_min": free(0.0, "least noise level at which it does", AT_LEAST_0),
    "sampling.s_max": free(1e30, "largest noise level at which it does", AT_LEAST_0),
    "sampling.s_noise": free(1.0, "standard deviation of that noise", AT_LEAST_0),
}

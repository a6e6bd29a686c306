"""Rows of the group eval: what `--mode eval` computes."""

from score_sde.config.holds import ABOVE_0, AT_LEAST_0, AT_LEAST_1, PATH, Names, one_to
from score_sde.config.schema.field import Field, counted_from_1, free

FIELDS: dict[str, Field] = {
    "eval.batch_size": free(1024, "images, for losses and the features of data sets", AT_LEAST_1),
    "eval.bpd_batch_size": free(
        128, "images, for bits/dim, whose backward pass keeps all activations", AT_LEAST_1
    ),
    "eval.num_samples": free(
        50000,
        "samples that distances are computed of",
        counted_from_1("eval.enable_sampling=False computes none", 10**7),
    ),
    "eval.labels": free(
        "equal",
        "classes of the samples, where sampling.label names none: each equally often, or in the "
        "proportions of the training images",
        Names("equal", "proportional"),
        older="equal",
    ),
    "eval.begin_ckpt": free(
        0, "first step of the checkpoints to evaluate; both 0: the newest", AT_LEAST_0
    ),
    "eval.end_ckpt": free(0, "last step; 0: no last one", AT_LEAST_0),
    "eval.enable_sampling": free(True, "compute distances of samples"),
    "eval.enable_loss": free(True, "compute the held-out loss"),
    "eval.enable_bpd": free(True, "compute bits/dim and their bound"),
    "eval.bpd_dataset": free("test", "splits for bits/dim", Names("test", "train", "both")),
    "eval.bpd_images": free(
        0, "images of each split, at random; 0: as many as there are test images", AT_LEAST_0
    ),
    "eval.bpd_draws": free(
        1,
        "uniform dequantisations of each image",
        counted_from_1("eval.enable_bpd=False computes no bits/dim", 10**7),
    ),
    "eval.bpd_probes": free(1, "probes for the trace, in each", one_to(10**7)),
    "eval.bpd_eps": free(1e-5, "time at which the flow begins", ABOVE_0),
    "eval.hutchinson_type": free(
        "Rademacher",
        "probes for the trace; exact for few dimensions",
        Names("Rademacher", "Gaussian", "exact"),
    ),
    "eval.ode_solver": free(
        "rk45",
        "Runge-Kutta method of the flow",
        Names(table="score_sde.solvers.ode:ODE_SOLVERS"),
        older="rk45",
    ),
    "eval.step_control": free(
        "i",
        "how its steps follow from their errors; pi: from the last two, as rejects fewer",
        Names(table="score_sde.solvers.ode:STEP_CONTROLS"),
        older="i",
    ),
    "eval.rtol": free(1e-5, "relative tolerance of the flow", ABOVE_0),
    "eval.atol": free(1e-5, "absolute tolerance of the flow", ABOVE_0),
    "eval.max_steps": free(10000, "of the flow, after which it gives up", AT_LEAST_1),
    "eval.features": free(
        "auto",
        "network of the features; auto: Inception where its weights are",
        Names("auto", "inception", "classifier"),
    ),
    "eval.inception_path": free("", "weights of Inception; where torch-fidelity keeps them", PATH),
    "eval.reference": free("", "a file of statistics; by default the data set's own", PATH),
    "eval.reference_split": free(
        "train",
        "split that samples are compared with, in the papers train",
        Names("train", "test"),
    ),
    "eval.stats_folder": free("runs/stats", "keeps feature networks and statistics", PATH),
}

"""Rows of the group model: SDE and network."""

from score_sde.config.holds import (
    ABOVE_0,
    AT_LEAST_0,
    FINITE,
    KERNEL,
    LENGTHS,
    LEVELS,
    NOT_0,
    SHARE,
    SIDES,
    Names,
    Number,
    one_to,
    up_to,
)
from score_sde.config.schema.field import Field, free, of_checkpoint

FIELDS: dict[str, Field] = {
    "model.name": of_checkpoint(
        "ncsnpp", "the network", Names(table="score_sde.networks.table:NETWORKS")
    ),
    "model.num_scales": of_checkpoint(1000, "noise levels of the SDE's chain", one_to(10**7)),
    "model.sigma_min": of_checkpoint(0.01, "smallest noise level, of VE and Karras' VE", ABOVE_0),
    "model.sigma_max": of_checkpoint(50.0, "largest noise level, of VE and Karras' VE", ABOVE_0),
    "model.sigma": of_checkpoint(25.0, "g(t) = sigma^t, of powervesde", ABOVE_0, older=25.0),
    "model.beta_min": of_checkpoint(0.1, "rate β at time 0, of VP and sub-VP", FINITE),
    "model.beta_max": of_checkpoint(20.0, "rate β at time 1, of VP and sub-VP", FINITE),
    "model.ema_rate": of_checkpoint(0.999, "decay of the weights' moving average; 0: none", SHARE),
    "model.ema_lengths": of_checkpoint(
        (),
        "lengths of further averages that are tracked, in shares of the training; (): none",
        LENGTHS,
        older=(),
    ),
    "model.ema_length": free(
        0.0, "length that --mode ema makes, between those tracked", SHARE, older=0.0
    ),
    "model.nf": of_checkpoint(128, "channels of the first level", one_to(65536)),
    "model.ch_mult": of_checkpoint((1, 2, 2, 2), "channels of each level, in units of nf", LEVELS),
    "model.num_res_blocks": of_checkpoint(4, "residual blocks of each level", one_to(64)),
    "model.attn_resolutions": of_checkpoint((16,), "sides of the levels with attention", SIDES),
    "model.attn_every_up": of_checkpoint(
        False, "of ddpm: attention in every block up, as in google/ddpm-*"
    ),
    "model.dropout": of_checkpoint(0.1, "share of activations dropped in training", SHARE),
    "model.nonlinearity": of_checkpoint("swish", "swish, relu, elu or lrelu"),
    "model.normalization": of_checkpoint("InstanceNorm++", "of NCSNv2"),
    "model.resamp_with_conv": of_checkpoint(True, "convolve where sizes change"),
    "model.conditional": of_checkpoint(True, "condition the network on the noise level"),
    "model.num_classes": of_checkpoint(0, "class labels; 0: none", up_to(10**7)),
    "model.label_dropout": of_checkpoint(
        0.0,
        "probability that training leaves a label out, by which the network learns no class, too",
        SHARE,
        older=0.0,
    ),
    "model.upsampling_factor": of_checkpoint(
        0,
        "how many times smaller the images are that the network is given to upsample; 0: none",
        Number("0 or from 2 to 1,024", lambda x: x == 0 or 2 <= x <= 1024),
        older=0,
    ),
    "model.fir": of_checkpoint(True, "of ncsnpp: smooth where sizes change"),
    "model.fir_kernel": of_checkpoint((1, 3, 3, 1), "of that filter", KERNEL),
    "model.skip_rescale": of_checkpoint(True, "of ncsnpp: divide sums with shortcuts by √2"),
    "model.resblock_type": of_checkpoint("biggan", "of ncsnpp: biggan or ddpm"),
    "model.progressive": of_checkpoint("none", "of ncsnpp: none, output_skip or residual"),
    "model.progressive_input": of_checkpoint(
        "residual", "of ncsnpp: none, input_skip or residual"
    ),
    "model.progressive_combine": of_checkpoint("sum", "of ncsnpp: sum or cat"),
    "model.init_scale": of_checkpoint(0.0, "of ncsnpp: scale of the first weights", AT_LEAST_0),
    "model.embedding_type": of_checkpoint(
        "fourier", "of ncsnpp: fourier (of log σ) or positional (of a time or step)"
    ),
    "model.fourier_scale": of_checkpoint(16.0, "of the Fourier frequencies", NOT_0),
    "model.prediction": of_checkpoint(
        "auto",
        "what the network puts out; auto: the score for VE, the noise for the others",
        Names("auto", table="score_sde.score:PREDICTIONS"),
        older="auto",
    ),
    "model.sigma_data": of_checkpoint(
        0.5,
        "standard deviation of the scaled data, of prediction and objective edm",
        ABOVE_0,
        older=0.5,
    ),
    "model.scale_by_sigma": of_checkpoint(
        True, "divide the output by the noise level, as scores are"
    ),
}

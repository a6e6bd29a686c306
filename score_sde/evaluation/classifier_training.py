"""Training of the built-in feature network, with labels or, where there are none, on turns."""

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde import noise
from score_sde.evaluation.classifier import Classifier

_MOST_STEPS, _MOST_PASSES = 1500, 40
_FULL_PIXELS = 32 * 32  # images of more pixels get fewer steps, for the same time
_LABEL_SMOOTHING = 0.1
_PEAK_RATE = 3e-3
_WEIGHT_DECAY = 0.05
_SMALLEST_STD = 1e-3
_TEST_ROWS = 1000


def train_classifier(
    images: Tensor,
    labels: Tensor | None,
    num_classes: int = 0,
    *,
    dataset: str,
    seed: int = 0,
    num_steps: int = 0,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Trains a `Classifier` by AdamW, its rate rising and falling once (Smith & Topin 2018).

    Without labels it learns which way up an image is (Gidaris et al. 2018): one of four quarter
    turns, or of two half turns where images are not square. On a CPU the weights are a function of
    the arguments and of the number of threads; torch's global generator stays as it is.

    Args:
        images: uint8 (N, C, H, W), 256 levels.
        labels: int64 (N,), or None.
        num_classes: classes K; not needed without labels.
        dataset: name of the data, after which distances are called.
        seed: of the first weights and of the order.
        num_steps: updates; 0 takes 1,500, fewer for small sets and large images: about a
            minute on a CPU.
        batch_size: images in each.
        device: where to train.

    Raises:
        ValueError: for images or labels of another kind, labels outside 0 … K - 1, or fewer than
            two classes.
    """
    _check(images, labels, num_classes)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    turns = (0, 1, 2, 3) if shape[1] == shape[2] else (0, 2)
    outputs = len(turns) if labels is None else num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(dataset, shape, outputs, labelled=labels is not None)
    _standardise(network, images)
    num_steps = num_steps or _enough_steps(images, batch_size)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=num_steps)
    for rows in _order(len(images), batch_size, num_steps, seed):
        batch = images[rows].to(device)
        if labels is None:
            batch, target = turned(batch, turns)
        else:
            target = labels[rows].to(device)
        loss = F.cross_entropy(network.outputs(batch)[1], target, label_smoothing=_LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class the network names.

    Args:
        network: trained with labels or on turns.
        images: uint8 (N, C, H, W).
        labels: int64 (N,); for a network of turns, the turns of `turned`.
    """
    device = network.pixel_mean.device
    right = 0
    with torch.no_grad():
        for rows in torch.arange(len(images)).split(_TEST_ROWS):
            named = network.outputs(images[rows].to(device))[1].argmax(1)
            right += (named == labels[rows].to(device)).sum().item()
    return right / len(images)


def turned(images: Tensor, turns: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) turned by quarters in rotation, and which of `turns` each has, (B,)."""
    which = torch.arange(len(images), device=images.device) % len(turns)
    out = images.clone()
    for i, quarters in enumerate(turns):
        out[which == i] = torch.rot90(images[which == i], quarters, (2, 3))
    return out, which


def _order(n: int, batch_size: int, num_steps: int, seed: int) -> list[Tensor]:
    """Rows of each batch: whole passes in shuffled orders, one after another."""
    epochs = -(-num_steps * batch_size // n)
    order = torch.cat([noise.permutation(n, seed, epoch) for epoch in range(epochs)])
    return list(order.split(batch_size))[:num_steps]


def _enough_steps(images: Tensor, batch_size: int) -> int:
    n, _, height, width = images.shape
    most = _MOST_STEPS * min(1.0, _FULL_PIXELS / (height * width))
    return min(round(most), -(-_MOST_PASSES * n // batch_size))


def _standardise(network: Classifier, images: Tensor) -> None:
    """Sets the mean and the standard deviation by which a channel is shifted and scaled."""
    for channel in range(images.shape[1]):
        counts = images[:, channel].flatten().bincount(minlength=256).double()
        share, values = counts / counts.sum(), torch.arange(256) / 255
        mean = (share * values).sum()
        std = (share * (values - mean).square()).sum().sqrt().clamp_min(_SMALLEST_STD)
        network.pixel_mean[channel], network.pixel_std[channel] = mean, std


def _check(images: Tensor, labels: Tensor | None, num_classes: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"images to learn from are {images.dtype} of shape {tuple(images.shape)}: give uint8 "
            "(N, C, H, W)"
        )
    if labels is None:
        return
    if num_classes < 2 or labels.shape != (len(images),):
        raise ValueError(
            f"{tuple(labels.shape)} labels of {num_classes} classes for {len(images)} images: "
            "give one label each of at least two classes, or labels=None"
        )
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} for {num_classes} classes: labels are "
            f"0 … {num_classes - 1}"
        )

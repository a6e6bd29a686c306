"""How often an independent classifier finds the class asked for in digits that were drawn.

    python -m benchmarks.asked_class samples.npz [more.npz ...]

The files are those of `--mode sample --output NAME.npz` of a network of classes, or one that a
classifier leads: they hold the class of each image; without, image k is taken to have been asked
to be a k mod 10, which chance alone fulfils. The judge is the classifier of the digits that comes
with the library, which has no part in the drawing. Printed is the share of all images, with
its standard error, and that of each class.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from score_sde.evaluation.classifier import digits_classifier


def main() -> None:
    """Prints a line for each file."""
    judge = digits_classifier()
    for path in map(Path, sys.argv[1:]):
        with np.load(path) as file:
            images = torch.from_numpy(file["images"])
            asked = torch.from_numpy(file["label"] if "label" in file else file["index"] % 10)
        with torch.no_grad():
            found = judge.outputs(images.permute(0, 3, 1, 2))[1].argmax(1)
        right = (found == asked).double()
        share = right.mean().item()
        error = (share * (1 - share) / len(right)) ** 0.5
        by_class = [f"{right[asked == c].mean():.2f}" for c in asked.unique()]
        print(f"{path}: {share:.1%} ± {error:.1%} of {len(right)}; by class {' '.join(by_class)}")


if __name__ == "__main__":
    main()

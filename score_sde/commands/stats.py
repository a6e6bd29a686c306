"""`--mode stats`: the feature network and the reference statistics of a data set."""

import torch

from score_sde import parallel
from score_sde.config.build import Config, open_split
from score_sde.config.check import check_config
from score_sde.config.subject import build_references
from score_sde.data import Source
from score_sde.evaluation import LeftOut, References, suits_classifier
from score_sde.evaluation.classifier_training import accuracy
from score_sde.evaluation.references import all_images


def stats(config: Config) -> str:
    """Computes the statistics of both splits, under the feature network of the evaluation.

    Trains the small classifier where there is neither Inception nor a classifier. Several
    processes share the images; the main one trains.

    Returns:
        What was done, in sentences.

    Raises:
        OSError, ValueError: missing data, or a folder that cannot be written to.
    """
    check_config(config)
    world, done = parallel.init(), list[str]()
    references = build_references(config, done.append)
    with parallel.main_first(world):  # it fetches what is missing, and trains
        sources = dict[str, Source]()
        try:
            network = references.network
        except (FileNotFoundError, LeftOut) as error:
            if isinstance(error, LeftOut) and not references.seen:
                raise ValueError(error.why) from error
            asked_for_inception = config.eval.features == "inception" or config.eval.inception_path
            if asked_for_inception or not suits_classifier(references.shape):
                raise
            sources = {split: open_split(config, split) for split in ("train", "test")}
            done.append(_train(references, sources["train"], sources["test"]))
            network = references.network
        sources = sources or {split: open_split(config, split) for split in ("train", "test")}
    found = {split: source.info.fingerprint for split, source in sources.items()}
    parallel.check_agreed(
        world, {"feature network": network.fingerprint, "fingerprint of the data": found}
    )
    for split, source in sources.items():
        done += [note for note in source.info.notes if note not in done]
        if len(source) > 1:
            references.compute_together(source, world)
            if world.is_main:
                n, path = references.statistics(source).facts.n, references.path(source)
                done.append(f"{split}: {n:,} images under {network.name}, in {path}")
    return "\n".join(done)


def _train(references: References, train: Source, test: Source) -> str:
    """Trains the small classifier of a data set; what it is, in one sentence."""
    network = references.train(train)
    n, path = train.info.num_images, references.classifier_path
    sentence = f"{network.name}: trained on {n:,} images, in {path}"
    if train.info.num_classes > 1 and len(test):
        share = accuracy(network, all_images(test), test.labels(torch.arange(len(test))))
        sentence += f"; it classifies {share:.1%} of the test images correctly"
    return sentence

"""`--mode stats`: the feature network and the reference statistics of a data set."""

from score_sde.config.build import Config, open_split
from score_sde.config.check import check_config
from score_sde.config.subject import build_references
from score_sde.evaluation import LeftOut, suits_classifier


def stats(config: Config) -> str:
    """Computes the statistics of both splits, under the feature network of the evaluation.

    Trains the small classifier where there is neither Inception nor a classifier.

    Returns:
        What was done, in sentences.

    Raises:
        OSError, ValueError: missing data, or a folder that cannot be written to.
    """
    check_config(config)
    references, done = build_references(config), list[str]()
    sources = {}
    try:
        network = references.network
    except (FileNotFoundError, LeftOut):
        asked_for_inception = config.eval.features == "inception" or config.eval.inception_path
        if asked_for_inception or not suits_classifier(references.shape):
            raise
        sources = {split: open_split(config, split) for split in ("train", "test")}
        done.append(references.train(sources["train"], sources["test"]))
        network = references.network
    for split in ("train", "test"):
        source = sources.get(split) or open_split(config, split)
        done += [note for note in source.info.notes if note not in done]
        if len(source) > 1:
            reference, path = references.statistics(source)
            done.append(f"{split}: {reference.facts.n:,} images under {network.name}, in {path}")
    return "\n".join(done)

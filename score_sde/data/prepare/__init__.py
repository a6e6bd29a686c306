"""A corpus of a user's own → shards of images of one size (`--mode prepare`).

`listing` says which images there are, of a folder, a zip or TFRecords (`tfrecords`), with their
splits and classes (`labels`); `pictures` makes of each what a shard holds; `writing` puts them on
the disk; `preparation` is the order of events. `score_sde.data.shards` reads what comes out.
"""

from score_sde.data.prepare.preparation import Prepared, prepare

__all__ = ["Prepared", "prepare"]

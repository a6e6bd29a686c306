"""What a run does, one function per mode: the order of events, each to be read as a story.

Everything a run writes lies in its work directory:

    config.json      the resolved config, versions, the source's commit, changes on the way
    log.txt          what was printed, appended on resume; where nothing can be written here,
                     beside the output (--output, --eval_folder)
    metrics.jsonl    the curves; loss.png draws them
    checkpoints/     step_00001000.pt: the newest, and the milestones
    eval/            step_00001000.json: figures with their errors; shards/ to resume from
    samples/         step_00001000.png, and .gif: a film of the reverse process
    tensorboard/     the same curves and pictures
    tune.json        what --mode tune computed
"""

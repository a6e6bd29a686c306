"""The first lines of the program, before anything is imported that takes time."""

import os
import sys

from score_sde.commands import signals


def script() -> int:
    """The command `score-sde`, and `python main.py`: the exit code."""
    signals.end_at_once()
    if signals.is_one_of_several():  # a lost connection is told by ourselves, once
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        from score_sde.commands import cli, errors
    except ModuleNotFoundError as error:
        if (error.name or "score_sde").startswith("score_sde") or "--debug" in sys.argv:
            raise
        sys.stderr.write(
            f"{error.name} is not installed for {sys.executable}: activate the environment that "
            "has it, or install it (pip install -r requirements.txt in the checkout)\n"
        )
        return 1

    if not cli.is_debug(sys.argv):
        errors.leave_out_traces()
    return cli.main(sys.argv)

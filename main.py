"""The command line: `python main.py --config configs/vp/digits.py --mode train`."""

import os
import sys

if __name__ == "__main__":
    try:
        import signal

        # Before all other imports, which take seconds: Ctrl-C ends them, and shows no trace.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
        from score_sde.commands.entry import script
    except KeyboardInterrupt:
        os._exit(130)
    sys.exit(script())

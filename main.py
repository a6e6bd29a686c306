"""The command line: `python main.py --config configs/vp/digits.py --mode train`."""

import sys

from score_sde.commands.entry import script

if __name__ == "__main__":
    sys.exit(script())

"""What recipes are composed of, by the name that older recipes import it by."""

from score_sde.config.parts import *  # noqa: F403

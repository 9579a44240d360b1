"""Files for their owner alone: adapters, memories, logs and reports all tell of the data."""

import os

OTHERS = 0o077  # what group and others might do


def keep_private() -> None:
    """Make the files of this process, and of those it starts, 0600 and their folders 0700.

    What is there already keeps its mode: somebody may share it on purpose.
    """
    os.umask(OTHERS)

"""What is submitted to a deployment: the project's description, and no code.

Flower sends the bundle to every node, in every run. Nodes have this project installed, since its
weights are too large for a bundle, and run what is installed (``fl_app.warm_executor``): the code
would be 988 kB a node that nobody reads.
"""

import shutil
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from fl_app.installed import installed


def make(folder: Path) -> Path:
    """Make the folder that ``flwr run`` takes, in ``folder``; return it."""
    app = folder / "thinwire"
    app.mkdir(exist_ok=True)
    shutil.copy(installed("pyproject.toml"), app)
    return app


def size(app: Path) -> int:
    """Return the bytes that every node fetches in a run."""
    return len(build_fab_from_disk(app))

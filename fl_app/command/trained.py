"""What ``predict`` and ``merge`` have in common: which model of a run is meant."""

import argparse
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

MODELS = ("last", "best", "start")  # as ``fl_app.runs.trained.MODELS``, without importing torch


def parser(command: str, usage: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that say which model it is."""
    made = argparse.ArgumentParser(
        prog=f"thinwire {command}",
        usage=f"thinwire {command} {usage}",
        description=description,
        epilog=f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="a run's folder, or a model that one has exported"
    )
    made.add_argument("--base", metavar="FOLDER", help="the base model, where it is another place")
    return made


def ended(work: Callable[[], None]) -> int:
    """Do the work, and return the exit status; errors are one line.

    Returns
    -------
    int
        0, or 2 if the arguments name something that cannot be used.
    """
    from fl_app.files import keep_private

    keep_private()
    warnings.simplefilter("ignore")  # of libraries, about their own future
    try:
        work()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0

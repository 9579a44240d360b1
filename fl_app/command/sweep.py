"""``thinwire sweep KEY=A,B ...``: many experiments, see ``fl_app.sweep``."""

import argparse
import sys
from pathlib import Path

from fl_app.command.overrides import parser

EXAMPLES = """
    thinwire sweep codec=nf4,thin seed=0,1,2
    thinwire sweep 'optimizer.lr=1e-3,3e-3' output.name=rates
    thinwire sweep +sweep=codecs                         a grid of conf/sweep
    thinwire sweep seed=0,1 hydra/launcher=joblib        as many runs at once as fit
    thinwire sweep --conf conf experiment=mine seed=0,1,2    one of your own experiments
    thinwire sweep +sweep=codecs output.name=x resume=true   go on after an interruption
"""


def main(arguments: list[str]) -> int:
    """Run the sweep that the overrides name; return the exit status."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        parser(
            "sweep",
            "Run many experiments, one for each combination of values, and compare them in a\n"
            "table, a page and a picture in runs/NAME. Options of Hydra's sweepers and launchers\n"
            "are taken too: hydra/launcher=joblib, hydra/sweeper=optuna.",
            EXAMPLES,
        ).print_help()
        return 0 if arguments else 2
    options = argparse.ArgumentParser(prog="thinwire sweep", add_help=False, allow_abbrev=False)
    options.add_argument("--conf", type=Path)
    asked, arguments = options.parse_known_args(arguments)  # Hydra reads the rest
    from fl_app.config import ConfigError
    from fl_app.config.own import with_own
    from fl_app.sweep.job import main as sweep

    try:
        arguments = with_own(arguments, asked.conf)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    sys.argv = ["thinwire sweep", "--multirun", *arguments]  # which Hydra reads
    return sweep()

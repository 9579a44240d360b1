"""``thinwire run [KEY=VALUE ...]``: one experiment, see ``fl_app.run``."""

import sys
from pathlib import Path

from fl_app.command.overrides import parser

EXAMPLES = """
    thinwire run
    thinwire run experiment=fedavg_lora rounds=3 seed=1
    thinwire run strategy=fedavg codec=thin clients_per_round=2 output.name=first
    thinwire run model=/models/MiniLM task=sequence_classification data=notes.csv data.client=ward
    thinwire run --conf conf experiment=mine
    thinwire run resume=runs/first rounds=10
"""


def main(arguments: list[str]) -> int:
    """Run the experiment that the overrides name; return the exit status."""
    asked = parser(
        "run",
        "Run one experiment in a simulation, and write its results to runs/NAME in this folder.",
        EXAMPLES,
    ).parse_intermixed_args(arguments)
    from fl_app import run
    from fl_app.config import ConfigError, joined
    from fl_app.config.own import with_own

    try:
        words = with_own(asked.overrides, Path(asked.conf) if asked.conf else None)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    return run.main([joined(words)])  # a word of the shell is one override

"""``thinwire COMMAND ...``: find the subcommand, print help, return the exit status."""

import argparse
import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from fl_app.command.overrides import dashed
from fl_app.faults.suggestions import did_you_mean
from fl_app.files import PROJECT, RESULTS

COMMANDS = {
    "run": "run one experiment: SuperLink, clients, server, results",
    "check": "check a configuration and print what would run; nothing is started",
    "init": "write an experiment file of your own",
    "sweep": "run many experiments: KEY=A,B makes one run per value",
    "predict": "answer the rows of a table with a model that a run has trained",
    "merge": "merge a trained adapter into its base: a model of transformers alone",
    "grow": "write a larger model, grown from a smaller one by a learned operator",
    "report": "make one page of finished runs, or compare many",
}
OVERRIDES = ("run", "check", "sweep")  # whose words are options of a run
EXAMPLES = """\
examples:
  thinwire run                                        the default experiment, a few minutes
  thinwire run experiment=fedavg_lora rounds=3        another one, and an option
  thinwire run model=PATH task=sequence_classification data=FILE data.client=COLUMN
  thinwire check codec=thin clients_per_round=2       what would run?
  thinwire sweep codec=nf4,thin seed=0,1,2            six runs and a comparison
  thinwire report runs/NAME                           runs/NAME/report.html
  thinwire predict runs/NAME rows.csv                 its answers, a line of JSON for each row

Every command has its own help: thinwire run --help; thinwire --version prints the version.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors suggest a command."""

    def error(self, message: str) -> NoReturn:
        """Print an error in one line, and exit with status 2."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run ``thinwire`` with these arguments; None: those of this process.

    Results are written below the current folder, and looked for there.

    Returns
    -------
    int
        0 if it succeeded, 1 if a run failed, 2 for a wrong configuration or command, 130 if it was
        interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="thinwire",
        description="Federated fine-tuning of transformers over links so thin that bytes are the "
        "budget.",
        usage="thinwire COMMAND ...",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
        + f"\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not words:
        parser.print_help()
        return 2
    command = words[0]
    if command == "--version":
        print(f"thinwire {version(PROJECT)}")
        return 0
    if command.startswith("-"):
        parser.parse_args(words[:1])  # help, or an error
    if command not in COMMANDS:
        parser.error(
            f"{command!r} is no command.{did_you_mean(command, COMMANDS)} Commands: "
            f"{', '.join(COMMANDS)}"
        )
    if command in OVERRIDES and (hint := dashed(words[1:])):
        parser.error(hint)
    os.environ.setdefault(RESULTS, str(Path.cwd()))
    try:
        found: int = import_module(f"fl_app.command.{command}").main(words[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return found


if __name__ == "__main__":
    sys.exit(main())

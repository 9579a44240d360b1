"""``thinwire run [KEY=VALUE ...]``: one experiment, see ``fl_app.run``."""

from fl_app.command.overrides import parser

EXAMPLES = """
    thinwire run
    thinwire run experiment=fedavg_lora rounds=3 seed=1
    thinwire run strategy=fedavg codec=thin clients_per_round=2 output.name=first
    thinwire run model=huggingface model.path=/models/t5 task=seq2seq data=table \\
        data.train.path=/data/train.csv data.test.path=/data/test.csv
    thinwire run resume=runs/first rounds=10
"""


def main(arguments: list[str]) -> int:
    """Run the experiment that the overrides name; return the exit status."""
    asked = parser(
        "run",
        "Run one experiment in a simulation, and write its results to runs/NAME in this folder.",
        EXAMPLES,
    ).parse_args(arguments)
    from fl_app import run
    from fl_app.config import joined

    return run.main([joined(asked.overrides)])  # a word of the shell is one override

"""``thinwire predict RUN FILE``: the answers of a trained model to the rows of a table."""

import sys
from pathlib import Path
from typing import Any

from fl_app.command.trained import MODELS, ended, parser

EXAMPLES = """
    thinwire predict runs/NAME rows.csv
    thinwire predict runs/NAME rows.jsonl --model best --out answers.csv
    thinwire predict moved/adapter rows.parquet --base models/bert
"""


def main(arguments: list[str]) -> int:
    """Write the answers; return the exit status."""
    asked = parser(
        "predict",
        "RUN FILE [--model last|best|start] [--out FILE] [--base FOLDER]",
        "Answer each row of a table (csv, jsonl or parquet) with a model that a run has trained.\n"
        "The columns are those of the run's rows; label or response may be missing. Each row is\n"
        "written with its prediction; of a classifier also the probability of each label. Where\n"
        "the table has references too, the score is printed.",
        EXAMPLES,
    )
    asked.add_argument("file", type=Path, metavar="FILE", help="the table")
    asked.add_argument(
        "--model", choices=MODELS, default=MODELS[0],
        help="the model of the last round, of the best one, or before training (default: last)",
    )  # fmt: skip
    asked.add_argument(
        "--out", type=Path, help="a new .jsonl or .csv file (default: JSON Lines on the output)"
    )
    given = asked.parse_args(arguments)

    def answer() -> None:
        from fl_app.runs import predictions, trained
        from fl_app.runs.text import score

        predictions.check_out(given.out)
        place = trained.find(given.run, given.model, given.base)
        found = trained.load(place)
        trained.to_device(found.model)
        rows = predictions.rows(given.file, place.cfg, found)
        answers: list[Any] = []
        with predictions.writing(given.out) as write:
            for row, own in predictions.predicted(found, rows):
                write(row)
                answers += own
        for name, value in predictions.score(found, rows, answers).items():
            print(f"{name} {score(name, value)}", file=sys.stderr)

    return ended(answer)

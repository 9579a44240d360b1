"""``thinwire merge RUN OUT``: a trained adapter in the weights of its base."""

from pathlib import Path

from fl_app.command.trained import MODELS, ended, parser

EXAMPLES = """
    thinwire merge runs/NAME merged
    thinwire merge runs/NAME merged --model best
    thinwire merge moved/adapter merged --base models/bert
"""


def main(arguments: list[str]) -> int:
    """Write the merged model; return the exit status."""
    asked = parser(
        "merge",
        "RUN OUT [--model last|best] [--base FOLDER]",
        "Write the model that a run has trained to the new folder OUT, as transformers loads it\n"
        "without PEFT: weights, tokenizer, generation settings and card. A base in 4 or 8 bits is\n"
        "written in float32.",
        EXAMPLES,
    )
    asked.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    asked.add_argument(
        "--model", choices=MODELS[:2], default=MODELS[0],
        help="the model of the last round, or of the best one (default: last)",
    )  # fmt: skip
    given = asked.parse_args(arguments)

    def merge() -> None:
        from fl_app.runs import merged, trained

        place = trained.find(given.run, given.model, given.base)
        merged.write(place, given.out)
        print(given.out)

    return ended(merge)

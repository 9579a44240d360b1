"""``thinwire init [KEY=VALUE ...]``: an experiment file of one's own."""

import sys
from pathlib import Path
from shlex import split

from fl_app.command.overrides import parser

EXAMPLES = """
    thinwire init model=/models/MiniLM task=sequence_classification data=notes.csv data.client=ward
    thinwire init --name triage codec=thin rounds=8
    thinwire run --conf conf experiment=mine rounds=3
"""


def main(arguments: list[str]) -> int:
    """Write what the overrides name, and what the data say, to an experiment's file.

    Returns
    -------
    int
        0 if it was written, else 2.
    """
    made = parser(
        "init",
        "Write an experiment file of your own: what you type, and what is read from your data.\n"
        "`thinwire run --conf conf experiment=NAME` runs it.",
        EXAMPLES,
    )
    made.add_argument("--name", default="mine", help="of the experiment (mine)")
    asked = made.parse_args(arguments)
    from fl_app.config import ConfigError, joined
    from fl_app.config.own import FOLDER, text_of, with_own
    from fl_app.preflight import configured

    conf = Path(asked.conf or "conf")
    path = conf / FOLDER / f"{asked.name}.yaml"
    try:
        if path.exists():
            raise ConfigError(f"{path} exists: take another --name, or edit it")
        words = with_own(asked.overrides, Path(asked.conf) if asked.conf else None)
        overrides, cfg = configured(joined(words))
        if cfg.resume is not None:
            raise ConfigError("resume names one run, and an experiment is for many: leave it out")
        text = text_of(split(overrides))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}\nto run it: thinwire run --conf {conf} experiment={asked.name}")
    return 0

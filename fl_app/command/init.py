"""``thinwire init [KEY=VALUE ...]``: an experiment file of one's own."""

import sys
from pathlib import Path
from shlex import join, split

from fl_app.command.overrides import CONF, parser
from fl_app.faults.printable import printable

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
    asked = made.parse_intermixed_args(arguments)
    from fl_app.config import ConfigError, joined
    from fl_app.config.data_only import OPTION
    from fl_app.config.own import FOLDER, HEAD, text_of, with_own
    from fl_app.preflight import configured

    conf = Path(asked.conf or "conf")
    path = conf / FOLDER / f"{asked.name}.yaml"
    try:
        if path.exists():
            raise ConfigError(f"{path} exists: take another --name, or edit it")
        if not OPTION.fullmatch(asked.name) or (CONF / FOLDER / path.name).exists():
            raise ConfigError(
                f"--name {asked.name} should be a name without slashes, and of no experiment of "
                "the project"
            )
        there = [*(conf / FOLDER).glob("*.yaml")]  # none before the first
        words = with_own(asked.overrides, conf if asked.conf and there else None)
        overrides, cfg = configured(joined(words))
        if cfg.resume is not None:
            raise ConfigError("resume names one run, and an experiment is for many: leave it out")
        typed = printable(join(["thinwire", "init", *asked.overrides]), most=2000)
        said = (typed, "What the data said is written out: edit it, or leave out what conf/ has.")
        head = HEAD + "".join(f"# {line}\n" for line in said)
        text = text_of(split(overrides)).replace(HEAD, head, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}\nto run it: thinwire run --conf {conf} experiment={asked.name}")
    return 0

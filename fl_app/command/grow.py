"""``thinwire grow OUT KEY=VALUE ...``: a larger model from a smaller one."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fl_app.command.overrides import parser
from fl_app.faults.printable import printable

if TYPE_CHECKING:
    from fl_app.session import Session

EXAMPLES = """
    thinwire grow grown model=llama-tiny task=word_problems data=word_problems
      'adapter.config={num_hidden_layers: 6}'
    thinwire grow grown model=/models/MiniLM task=sequence_classification data=notes.csv
      'adapter.config={num_hidden_layers: 12}' --steps 200
    thinwire run model=$PWD/grown task=sequence_classification data=notes.csv
"""
LINES = 10  # that tell of losses


def main(arguments: list[str]) -> int:
    """Train the growth operator and write the larger model; return the exit status."""
    made = parser(
        "grow",
        "Write a larger model, grown from the one that the overrides name, to the new folder OUT.\n"
        "adapter.config says how it differs. The operator of adapter=ligo is trained on the train\n"
        "rows of this machine, those of all clients together; experiment=ligo does so in a\n"
        "federation.",
        EXAMPLES,
    )
    made.add_argument("--steps", type=int, default=100, help="steps of training (100); 0: none")
    asked = made.parse_intermixed_args(arguments)
    from fl_app.config import ConfigError, joined
    from fl_app.config.own import with_own
    from fl_app.files import keep_private
    from fl_app.preflight import check_built, configured

    keep_private()
    warnings.simplefilter("ignore")  # of libraries, about their own future
    out, *words = asked.overrides or [""]
    try:
        if not out or "=" in out:
            raise ConfigError("name the folder to write first: thinwire grow OUT KEY=VALUE ...")
        if asked.steps < 0:
            raise ConfigError(f"--steps {asked.steps} should be at least 0")
        folder = Path(out)
        if folder.exists():
            raise ConfigError(f"{folder} exists: name a new folder")
        own = with_own(["adapter=ligo", *words], Path(asked.conf) if asked.conf else None)
        overrides, cfg = configured(joined(own))
        if cfg.adapter.id != "ligo" or cfg.resume is not None:
            raise ConfigError("thinwire grow has adapter=ligo: leave adapter and resume out")
        check_built(cfg)
        from fl_app.build import open_session

        grow(open_session(overrides), folder, asked.steps)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ValueError) as error:  # of model and data
        print(printable(error, most=2000), file=sys.stderr)
        return 2
    return 0


def grow(here: "Session", out: Path, steps: int) -> None:
    """Train the operator of the session's model, and write the larger model.

    Parameters
    ----------
    here : Session
        With ``adapter=ligo``.
    out : Path
        A new folder; it is written completely or not at all.
    steps : int
        Batches to train on; the rows come in random order, again and again.
    """
    import numpy as np

    from fl_app.files import atomic_folder
    from fl_app.runs import base_model, exported, model_card
    from fl_app.training.loop import train

    cfg, rows = here.cfg, here.data["train"]
    if steps:
        rng = np.random.default_rng(cfg.seed)
        needed = steps * cfg.batch_size * cfg.gradient_accumulation
        order = np.concatenate([rng.permutation(len(rows)) for _ in range(-(-needed // len(rows)))])

        def tell(done: int, of: int, loss: float | None) -> None:
            if done % max(1, of // LINES) == 0:
                print(f"step {done} of {of}: loss {loss:.4f}", flush=True)

        train(
            here.model,
            rows.select(order[:needed]),
            here.task,
            cfg.optimizer,
            epochs=1,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            gradient_accumulation=cfg.gradient_accumulation,
            watch=tell,
        )
    base = base_model.described(cfg.model)
    with atomic_folder(out) as folder:
        here.adapter.export(here.model, folder)
        exported.Parts(cfg, here.tokenizer, here.task, here.generation, base).write(folder)
        (folder / exported.CARD).write_text(model_card.grown(cfg, base, steps), encoding="utf-8")
    print(out)

"""``thinwire grow OUT KEY=VALUE ...``: a larger model from a smaller one."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fl_app.command.overrides import parser
from fl_app.faults.printable import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from fl_app.runs.trained import Place
    from fl_app.session import Session

EXAMPLES = """
    thinwire grow grown model=llama-tiny task=word_problems data=word_problems
      'adapter.config={num_hidden_layers: 6}'
    thinwire grow grown model=/models/MiniLM task=sequence_classification data=notes.csv
      'adapter.config={num_hidden_layers: 12}' --steps 200
    thinwire run model=$PWD/grown task=sequence_classification data=notes.csv
    thinwire grow grown model=llama-tiny task=word_problems data=word_problems
      'adapter.config={num_hidden_layers: 6}' --adapter runs/NAME
    thinwire merge grown/adapter merged --base grown
"""
LINES = 10  # that tell of losses


def main(arguments: list[str]) -> int:
    """Train the growth operator and write the larger model; return the exit status."""
    made = parser(
        "grow",
        "Write a larger model, grown from the one that the overrides name, to the new folder OUT.\n"
        "adapter.config says how it differs. The operator of adapter=ligo is trained on the train\n"
        "rows of this machine, those of all clients together; experiment=ligo does so in a\n"
        "federation. A LoRA that was trained over the smaller model grows with it.",
        EXAMPLES,
    )
    made.usage = "thinwire grow OUT [--steps STEPS] [--adapter RUN] [KEY=VALUE ...]"
    made.add_argument("--steps", type=int, default=100, help="steps of training (100); 0: none")
    made.add_argument(
        "--adapter", type=Path, metavar="RUN",
        help="a run's folder, or an exported LoRA: OUT/adapter is what becomes of it",
    )  # fmt: skip
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
        adapter = None if asked.adapter is None else lora_of(asked.adapter, cfg)
        from fl_app.build import open_session

        grow(open_session(overrides), folder, asked.steps, adapter)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ValueError) as error:  # of model and data
        print(printable(error, most=2000), file=sys.stderr)
        return 2
    return 0


def lora_of(path: Path, cfg: "DictConfig") -> "Place":
    """Return where the LoRA is that a user names, over the base that ``cfg`` names.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is over another base.
    """
    from fl_app.adapters.ligo import lora
    from fl_app.runs import base_model, trained
    from fl_app.runs.merged import base_of

    place = trained.find(path)
    if place.folder is None or not place.is_adapter:
        raise ValueError(f"{path} holds a whole model, no adapter: grow it with model=FOLDER")
    try:
        lora.check(trained.adapter_config(place.folder))
    except ValueError as error:
        raise ValueError(f"--adapter {path}: {error}") from None
    own, said = base_model.described(cfg.model), base_of(place)
    known = own.sha256 or own.id
    if known is None or known != (said.sha256 if own.sha256 else said.id):
        raise ValueError(
            f"--adapter {path} was trained over another base than model={cfg.model.path}: over "
            f"{said.sha256 or said.id or 'weights that were drawn'}, and this is {known}"
        )
    return place


def grow(here: "Session", out: Path, steps: int, adapter: "Place | None" = None) -> None:
    """Train the operator of the session's model, and write the larger model.

    Parameters
    ----------
    here : Session
        With ``adapter=ligo``.
    out : Path
        A new folder; it is written completely or not at all.
    steps : int
        Batches to train on; the rows come in random order, again and again.
    adapter : Place or None
        A LoRA over the smaller model, see `lora_of`; what becomes of it is written to
        ``out/adapter``.
    """
    from fl_app.files import atomic_folder
    from fl_app.runs import base_model, exported, model_card
    from fl_app.training.loop import train

    cfg = here.cfg
    if steps:
        rows = here.data["train"]
        needed = steps * cfg.batch_size * cfg.gradient_accumulation

        def tell(done: int, of: int, loss: float | None) -> None:
            if done % max(1, of // LINES) == 0:
                print(f"step {done} of {of}: loss {loss:.4f}", flush=True)

        train(
            here.model,
            rows.select(drawn(len(rows), needed, cfg.seed)),
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
        if adapter is not None:
            write_adapter(here, adapter, folder)
    print(out)


def drawn(rows: int, needed: int, seed: int) -> "NDArray[np.int64]":
    """Return the places of as many rows as are needed: all in random order, again and again.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    import numpy as np

    if not rows:
        raise ValueError(
            "data.train has no rows to train the operator on: give it some, or grow without "
            "training with --steps 0"
        )
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows) for _ in range(-(-needed // rows))])[:needed]


def write_adapter(here: "Session", adapter: "Place", out: Path) -> None:
    """Write what becomes of a LoRA, over the larger model in ``out``, to ``out/adapter``."""
    import copy

    from omegaconf import DictConfig

    from fl_app.adapters import lora as any_lora
    from fl_app.adapters.ligo import lora
    from fl_app.adapters.ligo.operator import materialized
    from fl_app.config import plain
    from fl_app.runs import base_model, exported, model_card, trained

    cfg, operator = DictConfig(plain(here.cfg)), here.model.ligo.cpu()
    small = trained.with_adapter(copy.deepcopy(operator.small), cast(Path, adapter.folder))
    large = lora.grown(operator, small, materialized(here.model))
    config = large.active_peft_config
    cfg.model.path, cfg.model.sha256, cfg.model.config = str(out.absolute()), None, {}
    if "visual_path" in cfg.model:  # the visual encoder is in the grown model
        cfg.model.visual_path = None
    cfg.adapter = {**plain(adapter.cfg.adapter), "r": config.r, "alpha": config.lora_alpha}
    base = base_model.described(cfg.model)
    folder = out / exported.LAST
    folder.mkdir()
    any_lora.export(large, folder)
    exported.Parts(cfg, here.tokenizer, here.task, here.generation, base).write(folder)
    (folder / exported.CARD).write_text(model_card.grown_adapter(cfg, base), encoding="utf-8")

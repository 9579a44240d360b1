"""``thinwire check [KEY=VALUE ...]``: what would run, or why it would not."""

import sys
from typing import TYPE_CHECKING

from fl_app.command.overrides import parser

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXAMPLES = """
    thinwire check experiment=thin
    thinwire check strategy=krum clients_per_round=7
    thinwire check optimizer.lr=1e-3 codec.up.links.1.block=64
"""


def main(arguments: list[str]) -> int:
    """Check the configuration that the overrides name, and print it in a few lines.

    Returns
    -------
    int
        0 if ``thinwire run`` would start with it, else 2.
    """
    asked = parser(
        "check",
        "Check a configuration and print what would run. Nothing is started, written or\n"
        "downloaded, and no rows are read. The exit status is 0, or 2 for a wrong configuration.",
        EXAMPLES,
    ).parse_args(arguments)
    from fl_app.config import ConfigError, joined
    from fl_app.preflight import check_built
    from fl_app.run import planned
    from fl_app.runs.resume import ResumeError

    try:
        _, cfg, _ = planned(joined(asked.overrides))
        check_built(cfg)
    except (ConfigError, ResumeError, FileExistsError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    print(text(cfg))
    return 0


def text(cfg: "DictConfig") -> str:
    """Return what a configuration runs, in a few lines."""
    from fl_app.runs.place import folder_of
    from fl_app.wire.ledger import short_name

    inner = str(cfg.strategy.inner._target_).rpartition(".")[2]
    folder = folder_of(cfg)
    lines = {
        "experiment": f"{cfg.experiment}, seed {cfg.seed}",
        "rounds": f"{cfg.rounds}, {cfg.clients_per_round} of {cfg.federation.clients} clients in "
        f"each, {cfg.local_epochs} local epochs in batches of {cfg.batch_size}",
        "model": f"{cfg.model.path}, adapter {cfg.adapter.id}",
        "task": f"{cfg.task.id} on {cfg.data.id}",
        "method": f"{inner}, optimizer {cfg.optimizer.id}, lr {cfg.optimizer.lr:g}",
        "codec": f"{short_name(cfg.codec.down)} down, {short_name(cfg.codec.up)} up",
        "privacy": str(cfg.privacy.id),
        "target": "none"
        if cfg.target.value is None
        else f"{cfg.target.metric} {cfg.target.value:g}",
        "results": f"{cfg.output.dir}/{cfg.experiment}-s{cfg.seed}-DATE-TIME"
        if folder is None
        else str(folder),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {said}" for name, said in lines.items())

"""``thinwire check [KEY=VALUE ...]``: what would run, and its cost; or why it would not."""

import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fl_app.command.overrides import parser
from fl_app.faults.printable import printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from fl_app.preflight.survey import Survey
    from fl_app.session import Session
    from fl_app.simulation.rehearsal import Cost

EXAMPLES = """
    thinwire check experiment=thin
    thinwire check strategy=krum clients_per_round=7
    thinwire check optimizer.lr=1e-3 codec.up.links.1.block=64
"""
LISTED = 10  # clients that are listed, and labels


def main(arguments: list[str]) -> int:
    """Check the run that the overrides name, and print what it is and what it will cost.

    Returns
    -------
    int
        0 if ``thinwire run`` would start with it, else 2.
    """
    asked = parser(
        "check",
        "Check a run: configuration, model and data, and one round on a few rows, to know what it\n"
        "will cost. Nothing is written. The exit status is 0, or 2 if the run would fail.",
        EXAMPLES,
    ).parse_intermixed_args(arguments)
    from fl_app.config import ConfigError, joined
    from fl_app.config.own import with_own
    from fl_app.preflight import check_built
    from fl_app.run import planned
    from fl_app.runs.resume import ResumeError

    warnings.simplefilter("ignore")  # of libraries, about their own future
    try:
        own = with_own(asked.overrides, Path(asked.conf) if asked.conf else None)
        words, cfg, actors = planned(joined(own))
        check_built(cfg)
        print(configuration(cfg), flush=True)
        for line in measured(words, cfg, actors):
            print(line, flush=True)
    except (ConfigError, ResumeError, FileExistsError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ValueError) as error:  # of model and data, and of a round
        print(error, file=sys.stderr)
        return 2
    return 0


def configuration(cfg: "DictConfig") -> str:
    """Return what a configuration runs, in a few lines."""
    from fl_app.config import plain
    from fl_app.runs.place import folder_of
    from fl_app.training import turns
    from fl_app.wire.ledger import short_name

    epochs = ", ".join(map(str, turns.epochs(plain(cfg))))
    inner = str(cfg.strategy.inner._target_).rpartition(".")[2]
    folder = folder_of(cfg)
    return "\n".join(
        line(name, said)
        for name, said in (
            ("experiment", f"{cfg.experiment}, seed {cfg.seed}"),
            (
                "rounds",
                f"{cfg.rounds}, {cfg.clients_per_round} of {cfg.federation.clients} clients in "
                f"each, {epochs} local epochs in batches of {cfg.batch_size}",
            ),
            ("model", f"{cfg.model.path}, adapter {cfg.adapter.id}"),
            ("task", f"{cfg.task.id} on {cfg.data.id}"),
            ("method", f"{inner}, optimizer {cfg.optimizer.id}, lr {cfg.optimizer.lr:g}"),
            ("codec", f"{short_name(cfg.codec.down)} down, {short_name(cfg.codec.up)} up"),
            ("privacy", str(cfg.privacy.id)),
            (
                "target",
                "none" if cfg.target.value is None else f"{cfg.target.metric} {cfg.target.value:g}",
            ),
            (
                "results",
                f"{cfg.output.dir}/{cfg.experiment}-s{cfg.seed}-DATE-TIME"
                if folder is None
                else str(folder),
            ),
        )
    )


def measured(overrides: str, cfg: "DictConfig", actors: int) -> Iterable[str]:
    """Yield what model and data are, and what the run will cost, in lines.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If the model or the data cannot be used, or the round fails.
    """
    from fl_app.preflight.survey import surveys
    from fl_app.simulation.rehearsal import opened_for_one_round, rehearse

    with opened_for_one_round(overrides) as (session, words):
        yield line("device", session.device_name)
        yield line("trained", trained(session))
        clients, splits = surveys(session)
        yield from data_lines(clients, splits)
        if not clients:
            yield line("cost", "every node has its own rows: start it, and it checks them")
        elif cfg.resume is not None:
            yield line("cost", "a resumed run costs what its ledger says so far, by round")
        else:
            cost = rehearse(session, words, [one.rows for one in clients.values()])
            yield from cost_lines(cost, cfg, actors)


def trained(session: "Session") -> str:
    """Return how much of the model is trained and sent."""
    of = sum(parameter.numel() for parameter in session.model.parameters())
    return f"{sum(x.size for x in session.theta0.values()):,} scalars of a model of {of:,}"


def data_lines(clients: Mapping[int, "Survey"], splits: Mapping[str, "Survey"]) -> Iterable[str]:
    """Yield the rows, tokens and labels of the server's splits and of the first clients."""
    for name, one in splits.items():
        yield line(name, described(one))
    for client, one in list(clients.items())[:LISTED]:
        owner = f"{printable(one.owner, most=40)}: " if one.owner else ""
        yield line(f"client {client}", f"{owner}{described(one)}")
    if (more := len(clients) - LISTED) > 0:
        rows = sorted(one.rows for one in clients.values())
        yield line("", f"and {more} more clients; the smallest has {rows[0]:,} rows, the largest "
                   f"{rows[-1]:,}")  # fmt: skip


def described(one: "Survey") -> str:
    """Return a survey as text: ``120 rows, inputs of 31 to 96 tokens, median 40; no 60``."""
    from fl_app.preflight.survey import MEASURED

    text = f"{one.rows:,} rows"
    if one.lengths:
        shortest, median, longest = (one.lengths[i * (len(one.lengths) - 1) // 2] for i in range(3))
        text += f", inputs of {shortest} to {longest} tokens, median {median}"
    if one.cut:
        text += (
            f"; {one.cut} of the first {min(one.rows, MEASURED)} are cut at model.max_length or "
            "model.max_answer_length"
        )
    if one.labels:
        first = sorted(one.labels.items(), key=lambda item: (-item[1], item[0]))
        text += "; " + ", ".join(f"{label} {rows}" for label, rows in first[:LISTED])
        text += f" and {len(first) - LISTED} more labels" if len(first) > LISTED else ""
    return text


def cost_lines(cost: "Cost", cfg: "DictConfig", actors: int) -> Iterable[str]:
    """Yield bytes, memory, disk and time of the run."""
    from fl_app.files import existing
    from fl_app.runs.text import duration, size

    clients = cfg.clients_per_round
    at_once = min(actors, clients)
    setup = f"{size(cost.setup)} of set-up, " if cost.setup else ""
    yield line("bytes", f"{setup}{size(cost.down)} down and {size(cost.up)} up a round")
    yield line("", f"about {size(cost.sent(cfg.rounds))} in {cfg.rounds} rounds")
    if cost.evaluate:
        yield line("", f"and {size(cost.evaluate)} a round in which clients score the model")
    yield line(
        "memory",
        f"at most {size(cost.memory)} a process: the server and {at_once} at once for clients",
    )
    free = shutil.disk_usage(existing(Path(cfg.output.dir).absolute())).free
    if cost.disk > free:
        raise OSError(
            f"the results need {size(cost.disk)}, and {cfg.output.dir} has {size(free)} left: make "
            "room, or choose another output.dir"
        )
    yield line("disk", f"{size(cost.disk)} of {size(free)} that are free")
    seconds = cost.seconds(cfg.rounds, clients, at_once)
    yield line("time", f"about {duration(seconds)} on this machine, and the start")


def line(name: str, said: str) -> str:
    """Return a line of the table."""
    return f"{name:<10}  {said}"

"""What a node trains on: rows of its own disk, or its share of the data that the run names.

A SuperNode that was started with a ``data-path`` in its node config holds one partition, and its
rows are exactly those at that path: nothing is divided, and no path of the run's configuration is
read. The server learns no rows and no path.
"""

from typing import cast

from datasets import Dataset
from flwr.app import Context
from omegaconf import DictConfig

from fl_app import data, tasks
from fl_app.build import open_session
from fl_app.client import policy
from fl_app.client.node_config import DATA_PATH, PARTITION, PARTITIONS
from fl_app.client.simulated import is_simulated
from fl_app.codecs import WireError
from fl_app.config import compose
from fl_app.config.aliases import overrides_of
from fl_app.faults import FaultError, during
from fl_app.privacy import is_example_level
from fl_app.session import Session
from fl_app.wire import readers
from fl_app.wire.messages import BY_NODE
from fl_app.wire.readers import Said


def has_own(context: Context) -> bool:
    """Return whether the node has rows of its own."""
    return DATA_PATH in context.node_config


def rows(here: Session, context: Context, partition: int) -> Dataset:
    """Return the rows of ``partition``, which this node serves.

    Raises
    ------
    FileNotFoundError, ValueError
        If the node's own rows are not there or not of this task, or it is asked for another
        partition than its own.
    RefusedError
        If the node's policy asks for more rows, or for fewer.
    """
    with during("rows"):
        found = _rows(here, context, partition)
    policy.check_rows(context, len(found))
    if not is_simulated():
        here.task.check(found)  # before training comes upon one: how many there are
    return found


def _rows(here: Session, context: Context, partition: int) -> Dataset:
    if not has_own(context):
        return here.documents(partition)
    own = cast(int, context.node_config[PARTITION])
    if partition != own:
        raise FaultError(
            "partition",
            f"asked for partition {partition}, and this node holds {own} alone",
            asked=partition,
            own=own,
        )
    found = data.own_rows(here.cfg.data, str(context.node_config[DATA_PATH]))
    tasks.check_columns(here.task, "train", found)
    here.method.check_rows(found)
    return found


def asked(said: Said, context: Context, cfg: DictConfig) -> tuple[int, dict[str, int]]:
    """Return which client a turn's question is for, and what the reply's head says of it.

    Where the server draws nodes, it is the one that this node has; else the one that it names.

    Raises
    ------
    WireError
        If the question names no client of the run, or names one where it may not.
    FaultError
        If the node config does not say which client the node has, or not one alone.
    """
    if cfg.federation.sampling != BY_NODE:
        return readers.client(said, cfg), {}
    if readers.PARTITION in said:
        raise WireError(f"federation.sampling={BY_NODE}, and the message names a client")
    part, parts = _placed(context)
    _check_one(parts, cfg)
    part = readers.integer({PARTITION: part}, PARTITION, 0, parts - 1)
    return part, {PARTITION: part}


def _placed(context: Context) -> tuple[int, int]:
    for key in (PARTITION, PARTITIONS):
        if key not in context.node_config:
            raise FaultError(
                "node_config",
                f"the node config lacks {key!r}: start the SuperNode with "
                '--node-config "partition-id=0 num-partitions=10"',
                key=key,
            )
    return int(context.node_config[PARTITION]), int(context.node_config[PARTITIONS])


def _check_one(parts: int, cfg: DictConfig) -> None:
    """Check that a node that has one of so many clients can be one client of the run."""
    if parts != cfg.federation.clients:
        raise FaultError(
            "partitions",
            f"this node holds one of {parts} clients, and the run has "
            f"federation.clients={cfg.federation.clients}: set it to {parts}, or "
            "num-partitions of all nodes to it",
            parts=parts,
            clients=cfg.federation.clients,
        )


def served(context: Context) -> tuple[int, int, list[int]]:
    """Return which partitions this node serves: k with k mod num-partitions = partition-id.

    Returns
    -------
    part, parts : int
    counts : list of int
        Where rows are private, how many each of the partitions has, in their order: what they spend
        depends on it, and the server cannot know. Else empty.

    Raises
    ------
    FileNotFoundError, ValueError
        If the node config does not say, or the node's own rows cannot be one client's of the run.
    """
    part, parts = _placed(context)
    overrides = overrides_of(context.run_config)
    cfg = compose(overrides)
    if has_own(context):
        _check_one(parts, cfg)
        rows(open_session(overrides), context, part)  # what is wrong with them is said now
    if is_example_level(cfg):
        here = open_session(overrides)
        from fl_app.client import budget  # Opacus is an extra that not every node has

        clients = range(part, cfg.federation.clients, parts)
        held = {client: rows(here, context, client) for client in clients}
        for client, found in held.items():
            if found:
                budget.check_plan(context, cfg, client, found)
        return part, parts, [len(found) for found in held.values()]
    return part, parts, []

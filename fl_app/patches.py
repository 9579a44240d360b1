"""Patches: changes of the frozen weights that a client must have before it trains.

LoRA-SB's B, R and A are one, before the first round; FLoRA's stacked factors and FedEx-LoRA's
residual are one a round. A patch is a Tree that the adapter's ``patch`` applies. The server sends
each one once to every node (``query.patch``), and the node keeps the frame in ``Context.state``,
so that any process that works for it can bring its model up to date.

How many patches there are, and of what rank, follows from the configuration: a message that says
otherwise is refused before memory is taken for it.
"""

import hashlib
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from omegaconf import DictConfig

from fl_app import first_step, messages
from fl_app.codecs import Wire, WireError
from fl_app.faults import FaultError
from fl_app.records import ARRAYS, STYPE, unpack_record
from fl_app.session import Session, forget_session, session
from fl_app.tree import Tree
from fl_app.wire import pack, unpack

QUERY = "patch"  # the action of the message
FRAMES, RANKS = "patch.frames", "patch.ranks"  # what a node keeps
NUMBER, RANK = "number", "rank"  # in a message: which patch, and the rank of its factors
Kept = tuple[int, bytes]  # rank and frame of a patch


def encode(tree: Tree, here: Session) -> tuple[Wire, bytes, Tree]:
    """Return a patch as ``codec.down`` writes it, as a frame, and as it arrives."""
    codec, zeros = here.down, _zeros(tree)
    wire, _ = codec.encode(tree, codec.init(zeros, here.cfg.seed), zeros)
    return wire, pack(wire, codec, here.manifest), codec.decode(wire, zeros)


def max_rank(cfg: DictConfig) -> int:
    """Return the highest rank of a patch: the factors of all clients of a round, stacked."""
    return int(cfg.adapter.get("r", 0)) * int(cfg.clients_per_round)


def decode(frame: bytes, rank: int, here: Session) -> Tree:
    """Return the patch in ``frame``, of factors of ``rank``, coded by ``codec.down``.

    Raises
    ------
    WireError
        If the frame is damaged, of another codec, for another state of the model, or of a rank
        that the run cannot have.
    """
    wire = unpack(frame, here.down, here.manifest)
    if not hasattr(here.adapter, "patch_like"):
        raise WireError(f"adapter.id={here.cfg.adapter.id} has no patches")
    if not 1 <= rank <= max_rank(here.cfg):
        raise WireError(f"a patch of rank {rank}, this run has none above {max_rank(here.cfg)}")
    return here.down.decode(wire, _zeros(here.adapter.patch_like(here.model, rank)))


def _zeros(tree: Tree) -> Tree:
    return {name: np.zeros_like(values) for name, values in tree.items()}


def patched(context: Context) -> Session:
    """Return the session of a node's run with the node's patches applied, and no others."""
    overrides = str(context.run_config["overrides"])
    here = session(overrides)
    if first_step.is_derived(here.cfg):
        if not here.patches:
            here.patch(first_step.public(here), first_step.DERIVED)
        return here
    kept = _kept(context)
    names = _names(kept)
    if here.patches != names[: len(here.patches)]:  # those of a run before
        forget_session()
        here = session(overrides)
    for rank, frame in kept[len(here.patches) :]:
        here.patch(decode(frame, rank, here), name(frame))
    return here


def _names(kept: list[Kept]) -> list[str]:
    return [name(frame) for _, frame in kept]


def name(frame: bytes) -> str:
    """Return what a process knows a patch by."""
    return hashlib.sha256(frame).hexdigest()


def receive(message: Message, context: Context) -> Message:
    """Keep and apply the patch that ``message`` brings.

    Raises
    ------
    ValueError
        If patches before it are missing: the node lost its state; the server then sends all.
    WireError
        See `decode`, and if number or rank are none of this run.
    """
    here = session(str(context.run_config["overrides"]))
    config = messages.record(message)
    number = messages.integer(config, NUMBER, 0, here.cfg.rounds)
    rank = messages.integer(config, RANK, 1, max_rank(here.cfg))
    kept = _kept(context)
    if number > len(kept):
        raise FaultError("state", number=number, has=len(kept))
    now = [*kept[:number], (rank, unpack_record(message.content))]
    _keep(context, now)
    try:
        # Where a node's process has gone ahead for another, it need not go back for this one.
        if here.patches[: len(now)] != _names(now):
            patched(context)
    except Exception:
        _keep(context, kept[:number])
        raise
    return Message(RecordDict(), reply_to=message)


def message(node: int, number: int, rank: int, partition: int, frame: ArrayRecord) -> Message:
    """Return the message that brings patch ``number`` to a node."""
    config = ConfigRecord({NUMBER: number, RANK: rank, messages.PARTITION: partition})
    return Message(RecordDict({ARRAYS: frame, "config": config}), node, f"query.{QUERY}")


def _kept(context: Context) -> list[Kept]:
    if FRAMES not in context.state:
        return []
    frames = [array.data for array in context.state.array_records[FRAMES].values()]
    ranks = cast(list[int], context.state.config_records[RANKS]["ranks"])
    return list(zip(ranks, frames, strict=True))


def _keep(context: Context, patches: list[Kept]) -> None:
    context.state[FRAMES] = ArrayRecord(
        {
            str(i): Array("uint8", (len(frame),), STYPE, frame)
            for i, (_, frame) in enumerate(patches)
        }
    )
    context.state[RANKS] = ConfigRecord({"ranks": [rank for rank, _ in patches]})

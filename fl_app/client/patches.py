"""Patches: changes of the frozen weights that a client must have before it trains.

LoRA-SB's B, R and A are one, before the first round; FLoRA's stacked factors and FedEx-LoRA's
residual are one a round. A patch is a Tree that the adapter's ``patch`` applies. The server sends
each one once to every node (``query.patch``), and the node keeps the frame in ``Context.state``,
so that any process that works for it can bring its model up to date.

How many patches there are, and of what rank, follows from the configuration: a message that says
otherwise is refused before memory is taken for it.
"""

from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_app.build import forget_session, open_session
from fl_app.config.aliases import overrides_of
from fl_app.faults import FaultError
from fl_app.session import Session
from fl_app.wire import readers
from fl_app.wire.envelope import frame_in
from fl_app.wire.messages import NUMBER, RANK, STYPE
from fl_app.wire.patch import patch_name

FRAMES, RANKS = "patch.frames", "patch.ranks"  # what a node keeps
Kept = tuple[int, bytes]  # rank and frame of a patch


def patched(context: Context) -> Session:
    """Return the session of a node's run with the node's patches applied, and no others."""
    overrides = overrides_of(context.run_config)
    here = open_session(overrides)
    if here.setup is not None and here.setup.derived:
        here.derive()
        return here
    kept = _kept(context)
    names = _names(kept)
    if here.patches != names[: len(here.patches)]:  # those of a run before
        forget_session()
        here = open_session(overrides)
    for rank, frame in kept[len(here.patches) :]:
        here.patch(here.decoded_patch(frame, rank), patch_name(frame))
    return here


def _names(kept: list[Kept]) -> list[str]:
    return [patch_name(frame) for _, frame in kept]


def receive(message: Message, context: Context) -> Message:
    """Keep and apply the patch that ``message`` brings.

    Raises
    ------
    ValueError
        If patches before it are missing: the node lost its state; the server then sends all.
    WireError
        See ``Session.decoded_patch``, and if number or rank are none of this run.
    """
    here = open_session(overrides_of(context.run_config))
    config = readers.record(message)
    number = readers.integer(config, NUMBER, 0, here.cfg.rounds)
    rank = readers.integer(config, RANK, 1, here.max_rank)
    kept = _kept(context)
    if number > len(kept):
        raise FaultError("state", number=number, has=len(kept))
    now = [*kept[:number], (rank, frame_in(message.content))]
    _keep(context, now)
    try:
        # Where a node's process has gone ahead for another, it need not go back for this one.
        if here.patches[: len(now)] != _names(now):
            patched(context)
    except Exception:
        _keep(context, kept[:number])
        raise
    return Message(RecordDict(), reply_to=message)


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

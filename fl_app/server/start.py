"""The server's part of LoRA-SB's start: asking clients for the signs of their gradients."""

from flwr.serverapp import Grid

from fl_app.adapters.lora_sb import start
from fl_app.codecs import WireError
from fl_app.server.ask import ask
from fl_app.server.replies import reason
from fl_app.session import Session
from fl_app.tree import Tree
from fl_app.wire.frame import unpack
from fl_app.wire.ledger import Ledger, Transfer, short_name
from fl_app.wire.messages import signs_question
from fl_app.wire.records import message_bytes, unpack_record


def gather_signs(
    grid: Grid, nodes: dict[int, int], here: Session, ledger: Ledger, timeout: float
) -> list[Tree]:
    """Ask every client in ``nodes`` for the signs of its gradient.

    Raises
    ------
    RuntimeError
        If a client gave none: a mean without it would be another start than the one asked for.
    """
    codec, like = start.sign_codec(), start.signs_like(here)
    trees: list[Tree] = []
    rows: list[Transfer] = []
    questions = [signs_question(node, client) for client, node in sorted(nodes.items())]
    try:
        for client, (question, reply) in zip(
            sorted(nodes), ask(grid, questions, timeout), strict=True
        ):
            rows.append(Transfer(0, client, "down", "setup", message_bytes=message_bytes(question)))
            if reply is None:
                raise RuntimeError(f"client {client} sent no signs of its gradient in time")
            up = Transfer(0, client, "up", "setup", message_bytes=message_bytes(reply))
            rows.append(up)
            if reply.has_error():
                raise RuntimeError(f"client {client}, signs of its gradient: {reason(reply)}")
            try:
                frame = unpack_record(reply.content)
                wire = unpack(frame, codec, here.manifest)
                trees.append(start.checked_signs(codec.decode(wire, like)))
            except WireError as error:
                raise RuntimeError(f"client {client}, signs of its gradient: {error}") from None
            up.codec, up.scalars = short_name(codec.spec), sum(x.size for x in like.values())
            up.payload_bytes, up.frame_bytes = wire.nbytes, len(frame)
            up.competition_bytes = wire.nbytes
    finally:
        ledger.add(rows)
    return trees

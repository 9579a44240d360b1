"""The server's part of an adapter's set-up: what must be agreed before round 1."""

from flwr.serverapp import Grid

from fl_app.adapters.setup import Setup
from fl_app.codecs import WireError
from fl_app.server.ask import ask
from fl_app.server.coded import Coded
from fl_app.server.replies import reason
from fl_app.server.round import RoundFailedError
from fl_app.tree import Tree, scalars
from fl_app.wire.envelope import frame_in
from fl_app.wire.frame import unpack
from fl_app.wire.ledger import Transfer
from fl_app.wire.messages import setup_question
from fl_app.wire.records import message_bytes


def set_up(coded: Coded, grid: Grid) -> None:
    """Find the patch that the adapter starts from, and with it theta0, if it needs one.

    Raises
    ------
    RuntimeError
        If a client whose answer is wanted gives none.
    """
    here = coded.session
    setup = here.setup
    if setup is None:
        return
    if setup.derived:
        here.derive()
    elif setup.asked:
        coded.patches.add(setup.from_answers(_answers(setup, coded, grid)), "setup")
    else:
        found = setup.from_public(here.model, here.data, here.task.training)
        coded.patches.add(found, "setup")


def _answers(setup: Setup, coded: Coded, grid: Grid) -> list[Tree]:
    """Ask the set-up's clients; what was sent is in the ledger, also if that fails.

    Raises
    ------
    RuntimeError
        If a client gave none: a patch without it would be another than the one asked for.
    """
    coded.clients.find(grid)
    missing = sorted({*setup.asked} - {*coded.clients.nodes})
    if missing:
        raise RoundFailedError(
            f"clients {missing} have no node, and each is asked for {setup.what}"
        )
    like = setup.answer_like(coded.session.model)
    clients = sorted(setup.asked)
    answers: list[Tree] = []
    rows: list[Transfer] = []
    questions = [setup_question(coded.clients.nodes[client], client) for client in clients]
    timeout = coded.session.cfg.federation.reply_timeout
    try:
        for client, (question, reply) in zip(clients, ask(grid, questions, timeout), strict=True):
            rows.append(Transfer(0, client, "down", "setup", message_bytes=message_bytes(question)))
            if reply is None:
                raise RuntimeError(f"client {client} sent no {setup.what} in time")
            up = Transfer(0, client, "up", "setup", message_bytes=message_bytes(reply))
            rows.append(up)
            if reply.has_error():
                raise RuntimeError(f"client {client}, {setup.what}: {reason(reply)}")
            try:
                frame = frame_in(reply.content)
                wire = unpack(frame, setup.codec, coded.session.manifest)
                answers.append(setup.codec.decode(wire, like))
                setup.check_answer(answers[-1])
            except WireError as error:
                raise RuntimeError(f"client {client}, {setup.what}: {error}") from None
            up.carries(setup.codec.spec, scalars(like), wire.nbytes, len(frame))
    finally:
        coded.ledger.add(rows)
    return answers

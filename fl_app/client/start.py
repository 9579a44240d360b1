"""The client's part of an adapter's set-up: its answer before round 1."""

from flwr.app import Context, Message, RecordDict

from fl_app.build import open_session
from fl_app.client import rows as node_data
from fl_app.client.answered import once
from fl_app.config.aliases import overrides_of
from fl_app.faults import FaultError
from fl_app.privacy import is_client_level, is_example_level
from fl_app.wire import readers
from fl_app.wire.envelope import enclosed
from fl_app.wire.frame import pack
from fl_app.wire.messages import SETUP


def answer(message: Message, context: Context) -> Message:
    """Return what the asked client's rows say to the set-up, packed, once in a run.

    Raises
    ------
    FaultError
        If the configuration asks the client for nothing, or promises privacy, which an answer
        without noise would break; or if it was sent before: a server could have patched the model
        in between, and so learn more of the same rows.
    """
    here = open_session(overrides_of(context.run_config))
    setup = here.setup
    private = is_example_level(here.cfg) or is_client_level(here.cfg)
    if private or setup is None or not setup.asked:
        raise FaultError("signs")
    partition = readers.client(readers.record(message), here.cfg)
    if partition not in setup.asked:
        raise FaultError("signs", f"the configuration asks client {partition} for no {setup.what}")
    once(context, f"{SETUP} of client {partition}")
    rows = node_data.rows(here, context, partition)
    tree = setup.answer(here.model, rows, here.task.training, partition)
    wire, _ = setup.codec.encode(tree, setup.codec.init(tree), tree)
    content = RecordDict({**enclosed(pack(wire, setup.codec, here.manifest))})
    return Message(content, reply_to=message)

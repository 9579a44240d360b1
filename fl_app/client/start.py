"""The client's part of LoRA-SB's start: the signs of its gradient."""

from flwr.app import Context, Message, RecordDict

from fl_app.adapters.lora_sb.start import askers, client_signs, is_needed, sign_codec
from fl_app.build import session
from fl_app.client import rows as node_data
from fl_app.client.answered import once
from fl_app.faults import FaultError
from fl_app.privacy import is_client_level, is_example_level
from fl_app.wire import readers
from fl_app.wire.frame import pack
from fl_app.wire.messages import ARRAYS
from fl_app.wire.records import pack_record


def answer(message: Message, context: Context) -> Message:
    """Return the signs of the asked client's gradient, packed, once in a run.

    Raises
    ------
    FaultError
        If the configuration asks the client for none, or promises privacy, which signs without
        noise would break; or if they were sent before: a server could have patched the model in
        between, and so learn more of the same rows.
    """
    here = session(str(context.run_config["overrides"]))
    private = is_example_level(here.cfg) or is_client_level(here.cfg)
    if private or not is_needed(here.cfg) or not askers(here.cfg):
        raise FaultError("signs", "the configuration asks no client for the signs of its gradient")
    partition = readers.client(message, here.cfg)
    if partition not in askers(here.cfg):
        raise FaultError("signs", f"the configuration asks client {partition} for no gradient")
    once(context, f"signs of client {partition}")
    rows = node_data.rows(here, context, partition)
    tree, codec = client_signs(here, rows, partition), sign_codec()
    wire, _ = codec.encode(tree, codec.init(tree), tree)
    content = RecordDict({ARRAYS: pack_record(pack(wire, codec, here.manifest))})
    return Message(content, reply_to=message)

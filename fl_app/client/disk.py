"""Where a node keeps what a run must find again after the node, or the server, was killed.

``STATE/RUN/client-K.safetensors`` holds the memory of one client's codec; ``RUN`` is the id that
Flower gave the run, in hex. A run that is resumed has a new id: the server tells the ids before it,
and the node looks there too. ``STATE`` is ``state-dir`` of the node config; without it, of a
simulated node ``.nodes`` in the folder of results, and of a real one ``thinwire`` in Flower's home
(``FLWR_HOME``): a run does not choose where a node writes.
"""

import json
import logging
import re
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.supercore.utils import get_flwr_home

from fl_app.client.node_config import STATE_DIR
from fl_app.client.simulated import is_simulated
from fl_app.config import compose
from fl_app.config.aliases import overrides_of
from fl_app.runs.node_state import default_state_dir, run_folder
from fl_app.wire import readers
from fl_app.wire.messages import CONTINUES

logger = logging.getLogger("thinwire")

MOST_RUNS = 1000  # that one continues
RUN_ID = re.compile(r"[0-9a-f]{1,16}")


def folders(context: Context) -> list[Path]:
    """Return where this run keeps things, then where it may find some: newest first."""
    own = state_dir(context) / run_folder(context.run_id)
    told = own / f"{CONTINUES}.json"
    before = json.loads(told.read_text()) if told.exists() else []
    return [own, *(own.with_name(one) for one in reversed(before))]


def note(message: Message, context: Context) -> None:
    """Keep which runs this one continues, if the server's question says so.

    Raises
    ------
    WireError
        If they are no ids, or very many.
    """
    config = message.content.config_records.get("config", ConfigRecord())
    if CONTINUES not in config:
        return
    before = readers.names(config, CONTINUES, RUN_ID, MOST_RUNS)
    own = folders(context)[0]
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        (own / f"{CONTINUES}.json").write_text(json.dumps(before))
    except OSError as error:  # then nothing was kept there either
        logger.warning("what clients remember is not on disk; set state-dir: %s", error)


def state_dir(context: Context) -> Path:
    """Return the folder of all that a node keeps, of any run."""
    if STATE_DIR in context.node_config:
        return Path(str(context.node_config[STATE_DIR]))
    if not is_simulated():
        return get_flwr_home() / "thinwire"
    return default_state_dir(compose(overrides_of(context.run_config)).output.dir)

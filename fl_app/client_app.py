"""The ClientApp: trains and evaluates on the documents of the partition that it is asked for."""

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fl_app.build import prepare
from fl_app.client import disk, patches, secure
from fl_app.client import rows as node_data
from fl_app.client.evaluation import evaluation
from fl_app.client.gate import gate
from fl_app.client.shown import shown
from fl_app.client.start import answer
from fl_app.client.turn import turn
from fl_app.client.words import NodeApp
from fl_app.config.aliases import overrides_of
from fl_app.wire.envelope import claim
from fl_app.wire.messages import NODE, PATCH, ROWS, SECURE_KEYS, SECURE_REVEAL, SECURE_SHARES, SETUP

app = NodeApp(mods=[gate])


@app.query()
def which_partition(message: Message, context: Context) -> Message:
    """Tell the server which partitions this node serves."""
    disk.note(message, context)
    part, parts, counts = node_data.served(context)
    content = {NODE: ConfigRecord({ROWS: counts})} if counts else {}
    answer = Message(RecordDict({**content}), reply_to=message)
    answer.metadata.group_id = claim(part, parts)
    if not node_data.has_own(context):
        prepare(overrides_of(context.run_config))  # the server has yet to score its theta0
    return answer


@app.query(SETUP)
def answer_setup(message: Message, context: Context) -> Message:
    """Send what the adapter's set-up wants of this client, once."""
    return answer(message, context)


@app.query(PATCH)
def patch(message: Message, context: Context) -> Message:
    """Change the frozen weights as the server says."""
    return patches.receive(message, context)


@app.query(SECURE_KEYS)
def secure_keys(message: Message, context: Context) -> Message:
    """Begin a round of secure aggregation."""
    return secure.keys(message, context)


@app.query(SECURE_SHARES)
def secure_shares(message: Message, context: Context) -> Message:
    """Share the round's secrets with other clients."""
    return secure.shares(message, context)


@app.query(SECURE_REVEAL)
def secure_reveal(message: Message, context: Context) -> Message:
    """Help to unmask the round's sum."""
    return secure.reveal(message, context)


@app.train(mods=[shown, secure.masked])
def train_model(message: Message, context: Context) -> Message:
    """Do the client's part of a round, and return what it sends."""
    return turn(message, context)


@app.evaluate()
def evaluate_model(message: Message, context: Context) -> Message:
    """Score the broadcast model on the client's own rows."""
    return evaluation(message, context)

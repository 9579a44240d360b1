"""The ClientApp: trains and evaluates on the documents of the partition that it is asked for."""

from collections.abc import Sequence

from datasets import Dataset
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl_app.build import prepare, session
from fl_app.client import disk, patches, secure
from fl_app.client import rows as node_data
from fl_app.client.clipping import clipped
from fl_app.client.coded import coded
from fl_app.client.configured import proximal_mu
from fl_app.client.gate import gate
from fl_app.client.start import answer
from fl_app.client.words import NodeApp
from fl_app.faults import FaultError
from fl_app.privacy import is_example_level
from fl_app.privacy.spent import SPENT
from fl_app.seeds import turn_seed
from fl_app.session import Session
from fl_app.training.hooks.proximal import proximal
from fl_app.training.loop import GradientHook, train
from fl_app.wire import readers
from fl_app.wire.messages import ARRAYS, PATCH, SECURE_KEYS, SECURE_REVEAL, SECURE_SHARES, SETUP
from fl_app.wire.records import to_record, to_tree

PROXIMAL_MU = "proximal-mu"  # in the config of Flower's FedProx

app = NodeApp(mods=[gate])


@app.query()
def which_partition(message: Message, context: Context) -> Message:
    """Tell the server which partitions this node serves."""
    disk.note(message, context)
    answer = Message(RecordDict({"node": node_data.served(context)}), reply_to=message)
    if not node_data.has_own(context):
        prepare(str(context.run_config["overrides"]))  # the server has yet to score its theta0
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


@app.train(mods=[secure.masked, coded, clipped])
def train_model(message: Message, context: Context) -> Message:
    """Train the broadcast model for ``local_epochs`` and return it."""
    here = session(str(context.run_config["overrides"]))
    partition, server_round = readers.turn(message, here.cfg)
    here.adapter.set(here.model, to_tree(message.content.array_records[ARRAYS], like=here.theta0))
    mu = proximal_mu(here.cfg, readers.record(message))
    rows = node_data.rows(here, context, partition)
    spent: dict[str, ConfigRecord] = {}
    if is_example_level(here.cfg) and rows:
        from fl_app.client import budget  # Opacus is an extra that not every node has

        spent[SPENT] = budget.begin(context, here.cfg, partition, server_round, rows).record()
    seed = turn_seed(here.cfg.seed, server_round, partition)
    hooks = [proximal(mu, here.model)] if mu else []
    metrics = _turn(here, rows, seed, hooks)
    arrays = to_record(here.adapter.get(here.model))
    return Message(RecordDict({ARRAYS: arrays, "metrics": metrics, **spent}), reply_to=message)


def _turn(here: Session, rows: Dataset, seed: int, hooks: Sequence[GradientHook]) -> MetricRecord:
    """Train the session's model as the configuration says, and return the turn's metrics."""
    cfg = here.cfg
    if is_example_level(cfg):
        from fl_app.privacy import dp_sgd  # of an extra that not every node has

        private = dp_sgd.train(here.model, rows, here.task, cfg, seed=seed, hooks=hooks)
        return MetricRecord({"num-examples": private.examples})
    turn = train(
        here.model,
        rows,
        here.task,
        cfg.optimizer,
        epochs=cfg.local_epochs,
        batch_size=cfg.batch_size,
        gradient_accumulation=cfg.gradient_accumulation,
        seed=seed,
        hooks=hooks,
    )
    return MetricRecord({"num-examples": turn.examples, "loss": turn.loss})


@app.evaluate(mods=[coded])
def evaluate_model(message: Message, context: Context) -> Message:
    """Score the broadcast model on the client's own documents.

    Raises
    ------
    FaultError
        If the run's configuration asks for no such scores: with privacy it never does.
    """
    here = session(str(context.run_config["overrides"]))
    if not here.cfg.evaluate_clients_per_round:
        raise FaultError("scores")
    partition = readers.client(message, here.cfg)
    documents = node_data.rows(here, context, partition)
    tree = to_tree(message.content.array_records[ARRAYS], like=here.theta0)
    scores = here.evaluate(tree, documents)
    examples = here.task.examples(documents)
    metrics = MetricRecord({"num-examples": examples, **scores})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

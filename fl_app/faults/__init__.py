"""Faults: what a node may report of a failure, a kind from a closed list with counts and names.

Rows, paths, the environment, exceptions of libraries and tracebacks stay in the node's own log.
``printable`` makes text of others safe to show.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fl_app.faults.printable import printable

FACT = 200  # largest number of characters of a fact

ASK = "; ask the node's operator"
# Facts are counts, numbers of rounds and clients, and texts of the run's own configuration, such as
# keys and names of columns; never the content of a row, a file name or a variable of a node.
KINDS: dict[str, str] = {
    "mixes_rows": (
        "privacy=dp_sgd hides single rows, but in this model {name} lets one row change the "
        "gradient of another: choose a model without batch normalization, running statistics and "
        "other memory of rows in training"
    ),
    "no_gradient": "the loss does not depend on {names}, which would be trained and sent: leave "
    "the module out of adapter.modules_to_save and adapter.target_modules (with adapter=peft in "
    "adapter.args); with adapter=full name it in adapter.freeze",
    "policy": "the node's policy forbids {key}, by its rule {rule}{limit}",
    "policy_file": f"the node's policy cannot be read{ASK}",
    # Rows.
    "clients": "a column of the rows names {names} clients, but the run has "
    "federation.clients={clients}",
    "columns": "the rows lack these columns, which the run's configuration names: {missing}",
    "answers": "rows without an answer in the column {column}: {rows}; say with task.unanswerable "
    "what is right there, or leave them out",
    "conversation": "rows whose column {column} has no conversation that can be learnt: {rows}",
    "empty": "rows without a value in the column {column}: {rows}; leave them out with "
    "data.train.drop, or say with data.empty what stands there",
    "format": "the column {column} holds a value that its rule in data.formats cannot write",
    "kind": "the column {column} holds {holds}, which are no texts: {way}",
    # Without their number: a run chooses column and labels, and could count the rows of any value.
    "label": "rows whose {column} is not one of task.labels, or not what task.problem_type needs; "
    "leave them out with data.train.drop",
    "no_rows": "no rows are left for the client: check data and federation.clients",
    "no_source": "data.train.path is null, and the node has no data-path of its own",
    "picture": f"pictures that rows name are missing or unreadable{ASK}",
    "reference": "a row's {column} contains no answer of the form that task.answer expects",
    "rows": f"the node's rows cannot be read with the options of data{ASK}",
    "slots": "the client's rows have {tasks} values of {column}, each a task, and there are "
    "{slots} slots: raise strategy.inner.slots",
    # Which clients a node serves.
    "node_config": f"the node config lacks {{key}}{ASK}",
    "partition": "client {asked} was requested, but the node holds only {own}",
    "partitions": "the node holds one of {parts} clients, but the run has "
    "federation.clients={clients}: set it to {parts}",
    # The app, the model, and other things that must be equal on both sides.
    "model": f"the model that the run names is not available on the node{ASK}",
    "bundle": "the run brings code, or is of another app or version than the one that is installed "
    "on the node: submit it with python -m deploy.submit",
    "other_codec": "the frame was written by another codec: check codec",
    "other_model": "theta0 or the trained tensors are not those of the server: same weights, "
    "adapter, seed and version on both sides?",
    "other_version": "the frame is of version {version}, the node reads {reads}: install the same "
    "Thinwire on both sides",
    "signs": "the configuration requests no gradient signs from clients, or promises privacy",
    "state": "patch {number} was sent to a node that has {has}: it lost its state",
    # Chosen by the type of an exception that has no kind.
    "codec": f"the model that the client returns cannot be encoded{ASK}",
    "configuration": f"the node cannot use the run's configuration{ASK}",
    "disk": f"a file of the node is missing, or cannot be read or written{ASK}",
    "diverged": "training diverged: lower optimizer.lr or raise optimizer.warmup",
    "memory": f"the node has too little memory: lower batch_size, or{ASK[1:]}",
    "unexpected": f"the node failed{ASK}",
    "wire": "the server's message cannot be read: is the same version installed on both sides?",
    # What a client may reveal of its rows, and how often.
    "budget": "{more} more private turns, after {turns}, would bring the client's rows to epsilon "
    "{epsilon} at delta {delta}, where {limit} is what {whose}",
    "budget_lost": f"the node's count of what its rows have spent is damaged or missing{ASK}: it "
    "must be restored from a copy",
    "other_value": "the server says {key}={said}, but the run's configuration {own}",
    "lost_memory": "the client has lost what it remembered of this run: the server's next message "
    "to it brings everything anew",
    "private_rows": "the method reads rows itself, but the run promises that they are private",
    "round_again": "client {client} was asked for round {round}, but has answered for {last}",
    "scores": "the configuration requests no scores on clients' rows",
    "secure_sum": "secure aggregation: {why}",
    "answered": "{what} was already answered in this run, and is answered only once",
    "state_dir": "the node cannot store what it has answered; set state-dir in its node config",
}


class FaultError(ValueError):
    """A failure whose reason may leave the node.

    Parameters
    ----------
    kind : str
        A key of ``KINDS``.
    whole : str
        The complete text, if it differs from ``said``. Only the node's own log and simulations
        show it.
    facts : int, float or str
        Values for the kind's sentence: counts, names of columns, keys of the configuration.

    Attributes
    ----------
    said : str
        The kind and its sentence, which may be sent to everyone.
    """

    def __init__(self, kind: str, whole: str = "", **facts: int | float | str) -> None:
        self.kind = kind
        names = {key: printable(fact, most=FACT) for key, fact in facts.items()}
        self.said = f"{kind}: {KINDS[kind].format(**names)}"
        super().__init__(whole or self.said)

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow sending it between processes without calling ``__init__`` again."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


_FAULT = "__thinwire_fault__"  # an attribute of an exception


@contextmanager
def during(kind: str, **facts: int | float | str) -> Iterator[None]:
    """Attach a fault to any exception in the block; the exception itself does not change.

    Peers are told the fault instead of the exception.

    Parameters
    ----------
    kind, facts
        See `FaultError`. An exception that already has a fault keeps it.
    """
    try:
        yield
    except Exception as error:
        if noted(error) is None:
            setattr(error, _FAULT, FaultError(kind, "", **facts))
        raise


def noted(error: BaseException) -> FaultError | None:
    """Return the fault that an exception is, or that `during` has attached to it, or None."""
    return error if isinstance(error, FaultError) else getattr(error, _FAULT, None)

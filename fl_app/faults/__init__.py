"""What a node may say of a failure: a kind from a closed list, with counts and column names.

Rows, paths, the environment, exceptions of libraries and tracebacks stay in the node's own log.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fl_app.faults.printable import printable

FACT = 200  # the most characters of a fact

ASK = "; ask the node's operator"
# Facts are counts, numbers of rounds and clients, and what the run's configuration says itself:
# keys and names of columns. Never what a row, a file's name or a variable of a node holds.
KINDS: dict[str, str] = {
    "mixes_rows": (
        "privacy=dp_sgd hides single rows, and in this model {name} lets one row change what "
        "another adds: choose a model without batch normalization, running statistics and other "
        "memory of rows in training"
    ),
    "policy": "the node's policy forbids {key}, by its rule {rule}{limit}",
    "policy_file": f"the node's policy cannot be read{ASK}",
    # Rows.
    "columns": "the rows lack these columns, which the run's configuration names: {missing}",
    "empty": "rows with nothing in the column {column}: {rows}",
    # Not how many: a run chooses column and labels, and could count the rows of any value.
    "label": "rows whose {column} is none of task.labels; leave them out, with data.*.drop",
    "no_rows": "no rows are left for the client: check data and federation.clients",
    "no_source": "data.train.path is null, and the node has no data-path of its own",
    "picture": f"pictures that rows name are missing or unreadable{ASK}",
    "reference": "a row's {column} holds no answer such as task.answer looks for",
    "rows": f"the node's rows cannot be read as data says{ASK}",
    # Who serves what.
    "node_config": f"the node config lacks {{key}}{ASK}",
    "partition": "client {asked} was asked for, and the node holds {own} alone",
    "partitions": "the node holds one of {parts} clients on its own disk, and the run has "
    "federation.clients={clients}: set it to {parts}",
    # The app, the model, and what both sides have to have alike.
    "model": f"the model that the run names cannot be had on the node{ASK}",
    "bundle": "the run brings code, or is of another app or version than the one that is installed "
    "on the node: submit it with python -m deploy.submit",
    "other_codec": "the frame was written by another codec: check codec",
    "other_model": "theta0 or the trained tensors are not those of the server: same weights, "
    "adapter, seed and version on both sides?",
    "other_version": "the frame is of version {version}, the node reads {reads}: install the same "
    "Thinwire on both sides",
    "signs": "the configuration asks no client for the signs of its gradient, or promises privacy",
    "state": "patch {number} came to a node that has {has}: it lost its state",
    # What is chosen for an exception that says no more, by its type.
    "codec": f"the model that the client returns cannot be encoded{ASK}",
    "configuration": f"the node cannot take the run's configuration{ASK}",
    "disk": f"a file of the node is missing, or cannot be read or written{ASK}",
    "diverged": "training diverged: lower optimizer.lr or raise optimizer.warmup",
    "memory": f"the node has too little memory: lower batch_size, or{ASK[1:]}",
    "unexpected": f"the node failed{ASK}",
    "wire": "what the server sent cannot be read: is the same version installed on both sides?",
    # What a client gives out of its rows, and how often.
    "budget": "{more} more private turns, after {turns}, would bring the client's rows to epsilon "
    "{epsilon} at delta {delta}, where {limit} is what {whose}",
    "budget_lost": f"the node's count of what its rows have spent is damaged or gone{ASK}: it has "
    "to be put back from a copy",
    "other_value": "the server says {key}={said}, and the run's configuration {own}",
    "private_rows": "the method reads rows itself, and the run promises that they are private",
    "round_again": "client {client} was asked for round {round}, and has answered for {last}",
    "scores": "the configuration asks no client for scores on its rows",
    "secure_sum": "secure aggregation: {why}",
    "answered": "{what} was answered in this run already, and is answered once",
    "state_dir": "the node cannot write what it has answered; set state-dir in its node config",
}


class FaultError(ValueError):
    """A failure whose reason may leave the node.

    Its text is for who may know everything: the node's own log, a simulation. ``said`` is for
    everyone.

    Parameters
    ----------
    kind : str
        A key of ``KINDS``.
    whole : str
        The text, if it is more than ``said``.
    facts : int, float or str
        What the kind's sentence names: counts, names of columns, keys of the configuration.
    """

    def __init__(self, kind: str, whole: str = "", **facts: int | float | str) -> None:
        self.kind = kind
        names = {key: printable(fact, most=FACT) for key, fact in facts.items()}
        self.said = f"{kind}: {KINDS[kind].format(**names)}"
        super().__init__(whole or self.said)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it go from process to process, without ``kind`` being asked for anew."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


_FAULT = "__thinwire_fault__"  # an attribute of an exception


@contextmanager
def during(kind: str, **facts: int | float | str) -> Iterator[None]:
    """Name the fault that any exception in the block is to a peer; the exception stays what it is.

    Parameters
    ----------
    kind, facts
        As of `FaultError`. An exception that has a kind already keeps it.
    """
    try:
        yield
    except Exception as error:
        if noted(error) is None:
            setattr(error, _FAULT, FaultError(kind, "", **facts))
        raise


def noted(error: BaseException) -> FaultError | None:
    """Return the fault that an exception is, or was noted as by `during`; None for none."""
    return error if isinstance(error, FaultError) else getattr(error, _FAULT, None)

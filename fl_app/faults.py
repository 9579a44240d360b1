"""What a node may say of a failure: a kind from a closed list, with counts and column names.

Rows, paths, the environment, exceptions of libraries and tracebacks stay in the node's own log.
"""

from fl_app.text import printable

FACT = 200  # the most characters of a fact

ASK = "; ask the node's operator"
# Facts are counts, numbers of rounds and clients, and what the run's configuration says itself:
# keys and names of columns. Never what a row, a file's name or a variable of a node holds.
KINDS: dict[str, str] = {
    "policy": "the node's policy forbids it, by its rule {rule}",
    # What is chosen for an exception that says no more, by its type.
    "codec": f"the model that the client returns cannot be encoded{ASK}",
    "configuration": f"the node cannot take the run's configuration{ASK}",
    "disk": f"the node cannot read or write a file of its own{ASK}",
    "diverged": "training diverged: lower optimizer.lr or raise optimizer.warmup",
    "memory": f"the node has too little memory: lower batch_size, or{ASK[1:]}",
    "missing": f"a file or folder is not on the node{ASK}",
    "protocol": "secure aggregation: the server asks for what would break the protocol",
    "unexpected": f"the node failed{ASK}",
    "wire": "what the server sent cannot be read: is the same version installed on both sides?",
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

"""What a node may say of a failure: a kind from a closed list, with counts and column names.

Rows, paths, the environment and tracebacks stay in the node's own log.
"""

KINDS: dict[str, str] = {
    "policy": "the node's policy forbids it, by its rule {rule}",
}


class FaultError(ValueError):
    """A failure whose reason may leave the node.

    Parameters
    ----------
    kind : str
        A key of ``KINDS``.
    facts : int, float or str
        What the kind's sentence names: counts, names of columns, keys of the configuration.
    """

    def __init__(self, kind: str, **facts: int | float | str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {KINDS[kind].format(**facts)}")

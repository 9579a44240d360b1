"""The keys that Thinwire reads from a SuperNode's ``--node-config``; docs/deployment.md."""

from fl_app.wire.messages import PARTITION, PARTITIONS

__all__ = ["DATA_PATH", "PARTITION", "PARTITIONS", "POLICY", "STATE_DIR"]

DATA_PATH = "data-path"  # the node's own rows
STATE_DIR = "state-dir"  # where it keeps what has to last
POLICY = "policy"  # the file of its operator's policy

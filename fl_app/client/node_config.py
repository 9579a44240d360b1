"""The keys that Thinwire reads from a SuperNode's ``--node-config``; docs/deployment.md."""

PARTITION, PARTITIONS = "partition-id", "num-partitions"
DATA_PATH = "data-path"  # the node's own rows
STATE_DIR = "state-dir"  # where it keeps what has to last
POLICY = "policy"  # the file of its operator's policy

"""What only a node does: its operator's policy, its own rows, what it keeps on its disk."""

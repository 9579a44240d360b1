"""A client's local training."""

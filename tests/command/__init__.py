"""The command thinwire."""

"""The server's half of every round."""

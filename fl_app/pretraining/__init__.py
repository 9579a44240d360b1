"""Commands that train the embedded models."""

"""Changes of a training step."""

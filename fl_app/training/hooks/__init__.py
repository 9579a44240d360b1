"""Hooks that change a training step."""

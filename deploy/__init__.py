"""Thinwire on real nodes: docs/deployment.md."""

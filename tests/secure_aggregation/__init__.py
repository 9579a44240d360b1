"""Tests of secure_aggregation."""

"""Tests of faults and of what is shown of other people's text."""

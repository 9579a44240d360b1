"""Lossless coders of a stream of symbols; `smallest` chooses the one with the fewest bytes."""

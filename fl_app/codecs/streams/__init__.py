"""Lossless coders of a stream of symbols; `smallest` chooses among them."""

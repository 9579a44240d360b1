"""LQ-LoRA: a base of few bits and the low-rank rest of it, which trains."""

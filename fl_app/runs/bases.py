"""The values of output.base: how an exported adapter has its base model."""

REFERENCE, COPY = "reference", "copy"
BASES = (REFERENCE, COPY)

"""Thinwire: federated fine-tuning of transformers over links so thin that bytes are the budget."""

import logging

# bitsandbytes warns at import about an optional CPU kernel that this project does not use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

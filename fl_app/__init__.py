"""Thinwire: federated fine-tuning of transformers over links so thin that bytes are the budget."""

import logging

# bitsandbytes warns at import about an optional CPU kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

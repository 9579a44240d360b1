"""Import everything that a ServerApp or a ClientApp needs, without garbage collection.

Most of it is torch and transformers. A fifth of their import time would be spent on garbage
collection that finds nothing. Frozen objects stay shared by forks of this process.
"""

import gc
import os

COMPILER = "TORCHDYNAMO_DISABLE"
was_on, compiler = gc.isenabled(), os.environ.get(COMPILER)
gc.disable()
# bitsandbytes asks torch to compile what no run here uses, its functions for devices without
# kernels, and torch imports its compiler for that: 1.7 s of each process.
os.environ[COMPILER] = "1"

import fl_app.adapters.lora  # noqa: E402
import fl_app.client_app  # noqa: E402
import fl_app.server_app  # noqa: E402, F401

gc.freeze()
if was_on:
    gc.enable()
if compiler is None:
    del os.environ[COMPILER]
else:
    os.environ[COMPILER] = compiler

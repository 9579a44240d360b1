"""Import everything that a ServerApp or a ClientApp needs, without garbage collection.

Most of it is torch and transformers. A fifth of their import time would be spent on garbage
collection that finds nothing. Frozen objects stay shared by forks of this process.
"""

import gc

was_on = gc.isenabled()
gc.disable()

import fl_app.client_app  # noqa: E402
import fl_app.server_app  # noqa: E402, F401

gc.freeze()
if was_on:
    gc.enable()

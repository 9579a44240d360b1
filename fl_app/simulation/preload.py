"""What a ServerApp or a ClientApp needs, imported at once and never garbage collected.

Most of it is torch and transformers. A fifth of the time of importing them goes into looking for
garbage where there is none; what is frozen stays shared by forks of the process that imported it.
"""

import gc

was_on = gc.isenabled()
gc.disable()

import fl_app.client_app  # noqa: E402
import fl_app.server_app  # noqa: E402, F401

gc.freeze()
if was_on:
    gc.enable()

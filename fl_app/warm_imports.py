"""What a ServerApp or a ClientApp needs, imported at once and never garbage collected.

Most of it is torch and transformers. A fifth of the time of importing them goes into looking for
garbage where there is none; what is frozen stays shared by forks of the process that imported it.
"""

import gc
import importlib

was_on = gc.isenabled()
gc.disable()
for name in ("fl_app.client_app", "fl_app.server_app"):
    importlib.import_module(name)
gc.freeze()
if was_on:
    gc.enable()

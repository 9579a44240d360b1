"""Thinwire: federated fine-tuning of transformers over links so thin that bytes are the budget.

Everything that a program needs is here, and is imported when it is first used:

- `compose`: the configuration that overrides select. `run_experiment`: run it in this process.
- `open_session`: its model, data, task, codecs and method, for work of your own.
- `from_spec`, `compress`, `decompress`: the codecs, for any state dict.
- `find_runs`, `runs_table`, `compare_runs`: results of runs as folders, a table, and a page.

The command ``thinwire`` does the same from a shell: see ``thinwire --help``.
"""

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_app.build import open_session
    from fl_app.codecs import from_spec
    from fl_app.preflight.typed import compose
    from fl_app.report.page import compare_runs
    from fl_app.runs import find_runs, runs_table
    from fl_app.simulation.in_process import run_experiment
    from fl_app.wire.tensors import compress, decompress

__all__ = [
    "compare_runs",
    "compose",
    "compress",
    "decompress",
    "find_runs",
    "from_spec",
    "open_session",
    "run_experiment",
    "runs_table",
]

_MODULES = {
    "compare_runs": "fl_app.report.page",
    "compose": "fl_app.preflight.typed",
    "compress": "fl_app.wire.tensors",
    "decompress": "fl_app.wire.tensors",
    "find_runs": "fl_app.runs",
    "from_spec": "fl_app.codecs",
    "open_session": "fl_app.build",
    "run_experiment": "fl_app.simulation.in_process",
    "runs_table": "fl_app.runs",
}

# bitsandbytes warns at import about an optional CPU kernel that this project does not use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


if not TYPE_CHECKING:  # a type checker shall know which names there are

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}",
                name=name,
                obj=sys.modules[__name__],
            )
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

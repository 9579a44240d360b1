"""A foreign app that someone submits; if any of its code runs, it leaves a file."""

from pathlib import Path

PYPROJECT = """
[project]
name = "{name}"
version = "{version}"

[tool.flwr.app]
publisher = "thinwire"

[tool.flwr.app.components]
serverapp = "evilpkg.server:app"
clientapp = "evilpkg.client:app"

[tool.flwr.app.config]
overrides = ""
"""
MARK = """
import os
import sys
from pathlib import Path

if Path(sys.argv[0]).name != "flwr":  # the submitter's own command, which looks whether it is there
    (Path({marks!r}) / f"{{__name__}}-{{os.getpid()}}").touch()
"""
SERVER = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    content = RecordDict({"config": ConfigRecord({"partition": 0, "server-round": 1})})
    messages = [Message(content, node, "query") for node in nodes]
    replies = grid.send_and_receive(messages, timeout=120)
    said = [reply.error.reason if reply.has_error() else "ran" for reply in replies]
    raise RuntimeError(f"{len(nodes)} nodes: {said}")
"""
CLIENT = """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    return Message(RecordDict(), reply_to=message)
"""


def write(folder: Path, name: str = "evil", version: str = "0.2.0") -> Path:
    """Write the app and return its folder; code of it that runs makes a file in ``folder/ran``."""
    app, marks = folder / name, folder / "ran"
    (app / "evilpkg").mkdir(parents=True)
    marks.mkdir(exist_ok=True)
    (app / "pyproject.toml").write_text(PYPROJECT.format(name=name, version=version))
    mark = MARK.format(marks=str(marks))
    for file, code in {"__init__": "", "server": SERVER, "client": CLIENT}.items():
        (app / "evilpkg" / f"{file}.py").write_text(mark + code)
    return app


def ran(folder: Path) -> set[str]:
    """Return the modules of the app that were imported by any process."""
    return {path.name.rpartition("-")[0] for path in (folder / "ran").iterdir()}

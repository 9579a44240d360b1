"""Attempts of another user of this machine to access a simulation::

    python -m tests.other_user USER FOLDER '{"superlink": PORT, "gcs": PORT, "ray": [PORT, ...]}'

All imports are done before this process becomes USER, who may be unable to read this project. With
"-" it keeps its user. It prints the outcome of each attempt as JSON: "did", or the error.
"""

import http.client
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
from ray._raylet import GcsClient

SECONDS = 10
METHODS = (
    "CoreWorkerService/GetCoreWorkerStats", "ObjectManagerService/Pull",
    "NodeManagerService/PrestartWorkers", "JobInfoGcsService/GetAllJobInfo",
)  # fmt: skip


def main() -> None:
    """Change the user, try everything, and print the outcomes."""
    user, folder, ports = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if user != "-":
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    attempts: dict[str, Callable[[], object]] = {
        "talk to the SuperLink": lambda: _get(ports["superlink"], "/openapi.json"),
        "attach to Ray": lambda: GcsClient(address=f"127.0.0.1:{ports['gcs']}"),
        **{f"call Ray at {port}": partial(_call, port) for port in ports["ray"]},
        "set up an environment": lambda: _get(ports["agent"], "/"),
        "list the folder": lambda: list(folder.iterdir()),
        "read Ray's token": (folder / "ray.token").read_text,
        "read the runs": (folder / "superlink.log").read_text,
    }
    print(json.dumps({name: _ended(attempt) for name, attempt in attempts.items()}))


def _ended(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "did"


def _proof() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return {"authorization": f"Bearer {Path(token).read_text()}"} if token else {}


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", path, headers=_proof() if path == "/" else {})
    status = connection.getresponse().status
    if status in (401, 403):
        raise PermissionError(status)


def _call(port: int) -> None:
    """Call one of Ray's processes; each implements one of ``METHODS``."""
    codes = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(
                    b"", timeout=SECONDS, metadata=[*_proof().items()]
                )
                return
            except grpc.RpcError as error:
                codes.append(error.code().name)
    raise PermissionError({*codes} - {"UNIMPLEMENTED"})


if __name__ == "__main__":
    main()

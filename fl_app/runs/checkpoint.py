"""Checkpoints: the model after a run's last round, and the server's state to resume from it.

``checkpoints/round-NNNN.safetensors`` contains the trained tensors under their own names, arrays of
the state beside them, and the state's structure as JSON in the header. Byte strings (frames, which
may be large and stay for many rounds) are in ``checkpoints/frames/``, each under its SHA-256. A
file appears completely or not at all, and the one that it replaces is removed last, so that there
is always a checkpoint.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from fl_app.faults.printable import printable
from fl_app.files import atomic_file
from fl_app.tree import Tree

PREFIX = "state/"  # prefix of the names of arrays that are not trained tensors
HEADER = "thinwire"
VERSION = "1"  # version of the state's content


class CheckpointError(ValueError):
    """A checkpoint that is damaged or was written by another version."""


def save(folder: Path, number: int, tree: Tree, state: dict[str, Any]) -> None:
    """Write the checkpoint of round ``number`` and remove the one that it replaces.

    Parameters
    ----------
    folder : Path
        ``checkpoints/`` of a run; it is made if missing.
    number : int
        The round.
    tree : Tree
        The trained tensors.
    state : dict
        None, bool, int, float, str, bytes, arrays and ArrayRecords, in any nesting of lists, tuples
        and dicts with texts as keys.

    Raises
    ------
    OSError
        If the disk is full; the previous checkpoint is still there.
    TypeError
        If the state contains something else.
    """
    arrays: dict[str, np.ndarray] = {}
    frames: dict[str, bytes] = {}
    structure = _to_json(state, arrays, frames)
    (folder / "frames" if frames else folder).mkdir(parents=True, exist_ok=True)
    for name, data in frames.items():
        if not (folder / "frames" / name).exists():
            atomic_file(folder / "frames" / name, data)
    target = folder / f"round-{number:04d}.safetensors"
    atomic_file(
        target, to_bytes({**tree, **arrays}, {HEADER: json.dumps(structure), "version": VERSION})
    )
    for old in [*folder.glob("round-*"), *folder.glob("frames/*")]:
        if old != target and old.name not in frames:
            old.unlink()


def load(folder: Path) -> tuple[Tree, dict[str, Any]] | None:
    """Return trained tensors and state of the last checkpoint; None if there is none.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is of another version; the message names both versions.
    """
    found = sorted(folder.glob("round-*.safetensors"))
    if not found:
        return None
    try:
        with safe_open(found[-1], framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
        written = header["version"]
        if written == VERSION:
            state = _from_json(json.loads(header[HEADER]), arrays, folder / "frames")
            if not isinstance(state, dict):
                raise ValueError("its state is not a mapping")
    except (
        *(SafetensorError, OSError, KeyError, TypeError, ValueError),
        *(AttributeError, RecursionError),  # a header that is cut off or nested too deep
    ) as error:
        raise CheckpointError(
            f"{found[-1]} cannot be read ({error}): it is damaged or of another version; start a "
            "new run"
        ) from None
    if written != VERSION:
        raise CheckpointError(
            f"{found[-1]} is a checkpoint of version {printable(written)}, and this Thinwire reads "
            f"version {VERSION}: resume with the Thinwire that wrote it, or start a new run"
        )
    return {n: x for n, x in arrays.items() if not n.startswith(PREFIX)}, state


def _to_json(value: Any, arrays: dict[str, np.ndarray], frames: dict[str, bytes]) -> Any:
    """Return ``value`` as JSON, and move its arrays and byte strings to the two dicts."""

    def convert(part: Any) -> Any:
        return _to_json(part, arrays, frames)

    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        name = f"{PREFIX}{len(arrays)}"
        arrays[name] = np.ascontiguousarray(value).reshape(np.shape(value))
        return {"array": name}
    if isinstance(value, bytes):
        name = hashlib.sha256(value).hexdigest()
        frames[name] = value
        return {"frame": name}
    if isinstance(value, ArrayRecord):
        return {"record": [[name, convert(array.numpy())] for name, array in value.items()]}
    if isinstance(value, list):
        return {"list": [convert(part) for part in value]}
    if isinstance(value, tuple):
        return {"tuple": [convert(part) for part in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, convert(part)] for key, part in value.items()]}
    raise TypeError(f"a {type(value).__name__} cannot be kept in a checkpoint")


def _from_json(value: Any, arrays: dict[str, np.ndarray], frames: Path) -> Any:
    """Invert `_to_json`, with byte strings from the folder ``frames``."""

    def convert(part: Any) -> Any:
        return _from_json(part, arrays, frames)

    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "frame":
        data = (frames / Path(content).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != content:
            raise ValueError(f"the frame {content} is damaged")
        return data
    if kind == "record":
        return ArrayRecord({name: Array(convert(part)) for name, part in content})
    if kind == "dict":
        return {key: convert(part) for key, part in content}
    parts = [convert(part) for part in content]
    return tuple(parts) if kind == "tuple" else parts

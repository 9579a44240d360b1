"""A run's last round on disk: the model, and all that the server needs to go on from there.

``checkpoints/round-NNNN.safetensors`` holds the trained tensors under their own names, arrays of
the state beside them, and the state's structure as JSON in the header. Byte strings (frames, which
may be large and stay for many rounds) lie in ``checkpoints/frames/``, each under its SHA-256. A
file appears whole or not at all, and what it replaces goes last: there is always a checkpoint.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from fl_app.files import atomic_file
from fl_app.tree import Tree

PREFIX = "state/"  # of the names of arrays that are not trained tensors
HEADER = "thinwire"
VERSION = "1"  # of what the state holds


class CheckpointError(ValueError):
    """A checkpoint that is damaged or of another version."""


def save(folder: Path, number: int, tree: Tree, state: dict[str, Any]) -> None:
    """Write the checkpoint of round ``number`` and remove what it replaces.

    Parameters
    ----------
    folder : Path
        ``checkpoints/`` of a run; it is made if missing.
    state : dict
        Of None, bool, int, float, str, bytes, arrays, ArrayRecord, and of lists, tuples and dicts
        with texts for keys of these.

    Raises
    ------
    OSError
        If the disk is full; the checkpoint before is still there.
    TypeError
        If the state holds something else.
    """
    arrays: dict[str, np.ndarray] = {}
    frames: dict[str, bytes] = {}
    structure = _flat(state, arrays, frames)
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
    """Return trained tensors and state of the last checkpoint, None if there is none.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    found = sorted(folder.glob("round-*.safetensors"))
    if not found:
        return None
    try:
        with safe_open(found[-1], framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
        if header.get("version") != VERSION:
            raise ValueError(f"version {header.get('version')}, this is {VERSION}")
        state = _whole(json.loads(header[HEADER]), arrays, folder / "frames")
        if not isinstance(state, dict):
            raise ValueError("its state is no mapping")
    except (
        *(SafetensorError, OSError, KeyError, TypeError, ValueError),
        *(AttributeError, RecursionError),  # of a header that is cut off or nested too deep
    ) as error:
        raise CheckpointError(
            f"{found[-1]} cannot be read ({error}): it is damaged or of another version; start the "
            "run anew"
        ) from None
    return {n: x for n, x in arrays.items() if not n.startswith(PREFIX)}, state


def _flat(value: Any, arrays: dict[str, np.ndarray], frames: dict[str, bytes]) -> Any:
    """Return ``value`` as JSON, its arrays and byte strings put into the two dicts."""

    def flat(part: Any) -> Any:
        return _flat(part, arrays, frames)

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
        return {"record": [[name, flat(array.numpy())] for name, array in value.items()]}
    if isinstance(value, list):
        return {"list": [flat(part) for part in value]}
    if isinstance(value, tuple):
        return {"tuple": [flat(part) for part in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, flat(part)] for key, part in value.items()]}
    raise TypeError(f"a {type(value).__name__} cannot be kept in a checkpoint")


def _whole(value: Any, arrays: dict[str, np.ndarray], frames: Path) -> Any:
    """Return what `_flat` was given."""

    def whole(part: Any) -> Any:
        return _whole(part, arrays, frames)

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
        return ArrayRecord({name: Array(whole(part)) for name, part in content})
    if kind == "dict":
        return {key: whole(part) for key, part in content}
    parts = [whole(part) for part in content]
    return tuple(parts) if kind == "tuple" else parts

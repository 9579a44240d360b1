"""Resume an interrupted run: ``resume=runs/NAME``."""

import fcntl
import json
import shlex
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig

from fl_app.config import OPEN, ConfigError, compose, identity, read_overrides, read_text, read_yaml
from fl_app.config.shorthand import literal
from fl_app.faults.printable import printable
from fl_app.files import PROJECT, project_root
from fl_app.privacy import is_example_level
from fl_app.runs.configurations import ANY, FORMER, flat, with_added
from fl_app.runs.summary import installed_version
from fl_app.tree import Tree

OVERRIDES = "overrides.txt"  # the file in a run's folder with the overrides of its start
# Options that may change: they do not decide what a round computes.
FREE = (
    "federation.reply_timeout", "federation.node_timeout", "federation.min_replies",
    "federation.max_failures",
)  # fmt: skip
UNNAMED = "0.1.0"  # the version of Thinwire whose checkpoints did not name it
LARGEST_SUMMARY = 10_000_000  # bytes; a run's has about 5,000

# The entries of the folder's part of a checkpoint, and their types.
FOLDER_STATE: dict[str, type | tuple[type, ...]] = {
    "round": int, "seconds": (int, float), "evaluate_seconds": (int, float), "transfers": int,
    "metrics": list, "resumed": list,
}  # fmt: skip


class ResumeError(ValueError):
    """A run that cannot be resumed."""


def folder(cfg: DictConfig) -> Path:
    """Return the folder that ``cfg.resume`` names.

    Raises
    ------
    ResumeError
        If it is not that of a run.
    """
    path = project_root() / str(cfg.resume)
    if not (path / OVERRIDES).is_file():
        raise ResumeError(f"resume={cfg.resume}: {path} is not the folder of a run")
    return path


def with_stored_overrides(overrides: str) -> str:
    """Return ``overrides``, preceded by those of the start if they name a run to resume.

    Raises
    ------
    ConfigError
        If an override is wrong.
    ResumeError
        If there is no such run on this machine.
    """
    cfg = compose(overrides)
    if cfg.resume is None:
        return overrides
    path = folder(cfg)
    stored = read_overrides(path / OVERRIDES)
    begun = _as_begun(path, f"{stored} {overrides}")
    return " ".join(filter(None, [stored, *begun, overrides]))


def _as_begun(path: Path, overrides: str) -> list[str]:
    """Return overrides that keep a run as it was begun, whatever conf/ says since."""
    if not (path / "config.yaml").exists():
        return []
    stored, now = flat(read_yaml(path / "config.yaml")), flat(identity(compose(overrides)))
    begun = {key: off for key, off in with_added(stored, now).items() if key not in stored}
    begun |= {
        key: stored[key]
        for key, value in FORMER.items()
        if key in stored and (stored[key] == value or value is ANY)
    }
    return [
        shlex.quote(f"{key}={_written(key, value)}")
        for key, value in begun.items()
        if key in now and value != now[key]
    ]


def _written(key: str, value: Any) -> Any:
    """Return a value of ``flat`` as an override has it; an open key's only without entries."""
    if isinstance(value, str):
        return "{}" if key in OPEN else literal(value)
    return "null" if value is None else value


def last_round(cfg: DictConfig, path: Path) -> tuple[Tree, dict[str, Any]] | None:
    """Return model and state of a run's last checkpoint; None if it has none yet.

    Parameters
    ----------
    cfg : DictConfig
        The configuration to resume with.
    path : Path
        The folder of the run.

    Raises
    ------
    ResumeError
        If the run is complete, had another configuration, or its checkpoint is damaged or of
        another version.
    """
    from fl_app.runs import checkpoint  # Flower: no run that starts anew reads one

    try:
        found = checkpoint.load(path / "checkpoints")
    except checkpoint.CheckpointError as error:
        raise ResumeError(f"resume={cfg.resume}: {error}") from None
    if found:
        _check_kept(cfg, found[1])
    kept = found[1]["folder"] if found else {}
    _check_same(cfg, path, str(kept.get("thinwire", UNNAMED)))
    _check_rows(cfg, path)
    done = kept.get("round", 0)
    if done > cfg.rounds or (done == cfg.rounds and is_complete(path)):
        raise _nothing_left(cfg, done)
    return found


def check_left(cfg: DictConfig) -> None:
    """Check, by the summary alone, that a run to resume has rounds left.

    Raises
    ------
    ResumeError
        If it is complete.
    """
    if cfg.resume is None:
        return
    said = _summary(folder(cfg))
    done = said.get("rounds")
    if said.get("status") == "completed" and isinstance(done, int) and done >= cfg.rounds:
        raise _nothing_left(cfg, done)


def _nothing_left(cfg: DictConfig, done: int) -> ResumeError:
    return ResumeError(
        f"resume={cfg.resume}: it has done {done} of rounds={cfg.rounds}: nothing is left; set "
        "more rounds to resume it"
    )


def lock(path: Path) -> TextIO:
    """Lock a run's folder against other processes until the returned file is closed.

    Raises
    ------
    ResumeError
        If another process has locked it.
    """
    file = (path / OVERRIDES).open()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ResumeError(f"{path}: another process still works on this run: stop it") from None
    return file


def is_complete(path: Path) -> bool:
    """Tell whether the summary of the run in ``path`` says that it completed."""
    return _summary(path).get("status") == "completed"


def _summary(path: Path) -> dict[str, Any]:
    """Return what a run's summary says; nothing if it is damaged, or not there."""
    summary = path / "summary.json"
    if not summary.is_file():
        return {}
    try:
        said = json.loads(read_text(summary, LARGEST_SUMMARY))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _check_kept(cfg: DictConfig, state: dict[str, Any]) -> None:
    """Refuse a checkpoint whose part of the folder is incomplete or has wrong types."""
    found = state.get("folder")
    kept: dict[str, Any] = found if isinstance(found, dict) else {}
    wrong = [key for key, kind in FOLDER_STATE.items() if not isinstance(kept.get(key), kind)]
    if not wrong and not all(map(_is_metric, kept["metrics"])):
        wrong = ["metrics"]
    if not wrong and not all(isinstance(number, int) for number in kept["resumed"]):
        wrong = ["resumed"]
    if wrong:
        raise ResumeError(
            f"resume={cfg.resume}: the checkpoint has no {', '.join(wrong)}, or a value of another "
            "type: it is damaged or of another version; start a new run"
        )


def _is_metric(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 4:
        return False
    number, split, name, value = row
    texts = isinstance(split, str) and isinstance(name, str)
    return texts and isinstance(number, int) and isinstance(value, (int, float))


def _check_same(cfg: DictConfig, path: Path, written_by: str) -> None:
    """Refuse a configuration that computes something else than the rounds done so far.

    It differs because the user typed other options, or because conf/ has changed since the start
    of the run; in the second case the message names both versions of Thinwire.
    """
    if not (path / "config.yaml").exists():
        return  # it was killed before the file was written
    try:
        there = read_yaml(path / "config.yaml")
        differ = _differing(there, cfg)
        its_own = compose(read_overrides(path / OVERRIDES)) if differ else cfg
    except ConfigError as error:
        raise ResumeError(f"resume={cfg.resume}: {error}") from None
    if _trained_in_bfloat16(flat(there)):
        raise ResumeError(
            f"resume={cfg.resume}: Thinwire {printable(written_by, 40)} trained whole modules of "
            f"this run in bfloat16, this is {installed_version(PROJECT)}, which trains them in "
            "float32. Resume it with the version that wrote it, or start a new run"
        )
    typed = _differing(its_own, cfg)
    changed = [f"{key}={differ[key]}" for key in differ if key not in typed]
    if changed:
        raise ResumeError(
            f"resume={cfg.resume}: Thinwire {printable(written_by, 40)} wrote this run, this is "
            f"{installed_version(PROJECT)}, where its overrides mean another configuration: "
            f"{'; '.join(changed)}. Resume it with the version that wrote it, or start a new run"
        )
    if differ:
        options = "; ".join(f"{key}={values}" for key, values in differ.items())
        raise ResumeError(
            f"resume={cfg.resume}: this is another configuration: {options}. Give only resume, or "
            "the overrides of that run"
        )


def _check_rows(cfg: DictConfig, path: Path) -> None:
    """Refuse a run of an earlier version whose rows are now read otherwise."""
    if cfg.data.id != "table" or not (path / "config.yaml").exists():
        return
    if "data.formats" in flat(read_yaml(path / "config.yaml")):
        return
    from fl_app.data import earlier
    from fl_app.tasks import named

    columns = {*named.columns(cfg.task), *named.optional(cfg.task)}
    columns |= {*filter(None, [cfg.data.partitioner.get("column")])}
    found = earlier.difference(cfg.data, columns, cfg.task.get("label"))
    if found:
        raise ResumeError(
            f"resume={cfg.resume}: cells of CSV and texts of JSON are now read as they are "
            f"written, and {found}. Resume it with the version that wrote it, or start a new run"
        )


def _trained_in_bfloat16(options: dict[str, Any]) -> bool:
    """Tell whether a run of an earlier version, without ``model.head``, trained in bfloat16."""
    whole = (
        options.get("adapter.id") == "full"
        or options.get("adapter.modules_to_save", "[]") != "[]"
        or options.get("task.id") == "sequence_classification"
    )
    return whole and options.get("model.dtype") == "bfloat16" and "model.head" not in options


def _differing(there: Any, here: DictConfig) -> dict[str, str]:
    """Return the options that differ and decide what a round computes, with both values."""
    free = {*FREE, *(() if is_example_level(here) else ("rounds",))}  # noise depends on all rounds
    then, now = (flat(_in_order(identity(one))) for one in (there, here))
    then = with_added(then, now)
    return {
        key: f"{now.get(key)!r}, where it has {then.get(key)!r}"
        for key in sorted({*then, *now} - free)
        if then.get(key) != now.get(key)
    }


def _in_order(value: Any) -> Any:
    """Return a nested value with its keys sorted: their order means nothing."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value, key=str)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value

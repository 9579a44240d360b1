"""The bundle that a run brings to its processes: the project's description, and no code.

Flower sends a bundle (a FAB, which is a zip file) with every run and runs the components that it
names. Here every machine has this project installed, whose weights are too large for a bundle, and
runs the installed app. A bundle only shows that its sender means this app in this version.
"""

import tomllib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from fl_app.files import atomic_file, installed

DESCRIPTION = "pyproject.toml"
INSTALLED = f"fl_app/simulation/app/{DESCRIPTION}"  # a link to ours, so that wheels contain it
FILES = {DESCRIPTION, ".info/CONTENT"}  # the latter is Flower's list of the files
MOST_BYTES = 64 * 1024  # largest bundle, and largest file in it; ours has 3 kB
LONGEST_QUOTE = 80  # characters of another bundle's text in a message
HOW = "submit with `make run` or `python -m deploy.submit`"


class BundleError(ValueError):
    """A bundle that is refused; the message says why."""


def make(folder: Path) -> Path:
    """Make the app that ``flwr run`` takes, in ``folder``; return its folder."""
    app = folder / "thinwire"
    app.mkdir(mode=0o700, exist_ok=True)
    atomic_file(app / DESCRIPTION, installed(INSTALLED).read_bytes())
    return app


def size(app: Path) -> int:
    """Return the size in bytes of the bundle, which every node downloads in a run."""
    from flwr.cli.build import build_fab_from_disk

    return len(build_fab_from_disk(app))


def check(bundle: bytes, ours: dict[str, Any]) -> None:
    """Check that ``bundle`` describes the app ``ours`` and contains nothing else.

    Nothing of it is written to disk, and at most `MOST_BYTES` of a file are unpacked.

    Parameters
    ----------
    bundle : bytes
        The bundle of a peer.
    ours : dict
        What `described` returns for the installed app.

    Raises
    ------
    BundleError
        If it is another app or version, or has other files.
    """
    if len(bundle) > MOST_BYTES:
        raise BundleError(f"the bundle has {len(bundle):,} bytes, {MOST_BYTES:,} at most: {HOW}")
    try:
        theirs = described(_description(bundle))
    except BundleError:
        raise
    except Exception as error:  # a hostile zip file or TOML text can raise anything
        raise BundleError(f"the bundle cannot be read ({type(error).__name__}): {HOW}") from None
    for what, value in ours.items():
        if theirs[what] != value:
            raise BundleError(
                f"the bundle is of another app than the installed one: its {what} is "
                f"{_quoted(theirs[what])}, not {_quoted(value)}; {HOW}, with the same version"
            )


def described(text: str) -> dict[str, Any]:
    """Return what identifies an app, from the text of its pyproject.toml."""
    description = tomllib.loads(text)
    app = description["tool"]["flwr"]["app"]
    return {
        "publisher": app["publisher"],
        "name": description["project"]["name"],
        "version": description["project"]["version"],
        "components": app["components"],
        "[tool.flwr.app]": app,
    }


def _description(bundle: bytes) -> str:
    """Return the text of pyproject.toml in a bundle that has no other files."""
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        names = [entry.filename for entry in archive.infolist()]
        foreign = [name for name in names if name not in FILES]
        if foreign:
            raise BundleError(
                f"the bundle contains {_quoted(foreign[0])}, but runs bring no code and no files: "
                "only the installed app is run; " + HOW
            )
        if len(names) != len({*names}):
            raise BundleError(f"the bundle contains a file twice: {HOW}")
        for entry in archive.infolist():
            if entry.file_size > MOST_BYTES:
                raise BundleError(
                    f"{entry.filename} of the bundle unpacks to {entry.file_size:,} bytes, "
                    f"{MOST_BYTES:,} at most: {HOW}"
                )
        with archive.open(DESCRIPTION) as file:
            return file.read(MOST_BYTES).decode()


def _quoted(value: object) -> str:
    return repr(value)[:LONGEST_QUOTE].encode("ascii", "backslashreplace").decode()

"""Files of the installed project that do not travel with the app.

Flower ships an app as a bundle of text files, so a run imports this package from a copy that
holds no weights. They are read from where the project is installed instead.
"""

import json
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

PROJECT = "thinwire"


def installed(relative: str) -> Path:
    """Absolute path of a file or folder of the project, e.g. ``fl_app/models/vt5_tiny``.

    Looks next to the imported package first (a checkout), then in the installed distribution:
    the project's root for an editable install, site-packages for an ordinary one.

    Raises:
        FileNotFoundError: it is in neither place; the message says how to mend that.
    """
    roots = [Path(__file__).resolve().parents[1]]
    with suppress(PackageNotFoundError):
        roots.append(_root(distribution(PROJECT)))
    for root in roots:
        if (root / relative).exists():
            return root / relative
    searched = ", ".join(str(root) for root in roots)
    raise FileNotFoundError(
        f"{relative} of the project {PROJECT} is missing (looked under {searched}); "
        "mend it with `make setup`, or `pip install -e .` in a complete checkout"
    )


def _root(dist: Distribution) -> Path:
    """Folder that holds the distribution's files (direct_url.json: PEP 610)."""
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(origin["url"]).path))
    return Path(str(dist.locate_file("")))


def project_root() -> Path:
    """Folder that results go under: the checkout of an editable install, else the current one.

    Not the folder of the imported package, which is Flower's copy while an app runs.
    """
    root = _root(distribution(PROJECT))
    return root if (root / "pyproject.toml").is_file() else Path.cwd()

"""plotly.js, which draws the charts: in the page itself, or in one file that pages share.

A page opens from a folder without a server, so that a shared file is named relative to the page.
"""

import importlib.util
from pathlib import Path

from fl_app.files import atomic_file
from fl_app.runs.place import SWEEP

FILE = "plotly.min.js"


def script() -> str:
    """Return plotly.js from the package plotly, which is not imported."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("reports need plotly; install it with `make setup`")
    path = Path(spec.origin).parent / "package_data" / FILE
    return path.read_text(encoding="utf-8")


def shared(page: Path) -> str | None:
    """Put plotly.js beside the runs of a sweep, and return its address for the page of one of them.

    Parameters
    ----------
    page : Path
        The page.

    Returns
    -------
    str or None
        The address, relative to the page; None for a page that is not in a run's folder of a
        sweep: such a page contains the script.
    """
    sweep = page.absolute().parent.parent
    if not (sweep / SWEEP).is_file():
        return None
    content, path = script().encode(), sweep / FILE
    if not path.is_file() or path.read_bytes() != content:  # none yet, or of another version
        atomic_file(path, content)
    return f"../{FILE}"

"""``python -m fl_app.report RUN... [--out FILE] [--picture FILE]``: a report of finished runs.

What reads runs and draws pages is imported after the arguments are read.
"""

import argparse
import sys
from pathlib import Path

from fl_app.files import keep_private

DESCRIPTION = "Make one HTML page that opens offline: of one run, or comparing many."
EXAMPLES = """\
examples:
  {prog} runs/NAME                 one run: scores, bytes, rounds, configuration
  {prog} runs/SWEEP                a folder of runs: all below it, compared
  {prog} 'runs/bench-*'            a pattern, quoted or not
  {prog} runs/a-* runs/b-* --out comparison.html --picture front.png
"""


def main(arguments: list[str] | None = None, prog: str = "python -m fl_app.report") -> None:
    """Find the runs, write page and picture, and print their paths.

    Parameters
    ----------
    arguments : list of str or None
        Those of the command; None: of this process.
    prog : str
        The command as it was typed, for the help.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder, a folder of them, or a pattern"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page to write (default: report.html in the folder of the run or sweep; for runs "
        "from several places, in the current folder); it stands alone, but for one in the folder "
        "of a sweep's run, which shares a script with the pages of the others",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="also draw the Pareto front as a still picture, .png or .svg",
    )
    asked = parser.parse_args(arguments)
    keep_private()
    if asked.picture and asked.picture.suffix not in (".png", ".svg"):
        parser.error(f"--picture {asked.picture}: the name should end in .png or .svg")
    from fl_app.report.page import compare_runs, write
    from fl_app.runs.catalog import find_runs, read_all

    try:
        folders = find_runs(asked.runs)
        out = asked.out or _default_out(asked.runs, folders)
        if len(folders) == 1:
            page = write(folders[0], out)
        else:
            page = compare_runs(folders, out, _heading(asked.runs))
        print(page)
        if asked.picture:
            from fl_app.report.picture import draw  # matplotlib

            print(draw(read_all(folders), asked.picture))
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


def _default_out(patterns: list[str], folders: list[Path]) -> Path:
    if len(folders) == 1:
        return folders[0] / "report.html"
    sweep = len(patterns) == 1 and Path(patterns[0]).is_dir()
    return Path(patterns[0] if sweep else ".") / "report.html"


def _heading(patterns: list[str]) -> str:
    return Path(patterns[0]).resolve().name if len(patterns) == 1 else "Runs compared"


if __name__ == "__main__":
    main()

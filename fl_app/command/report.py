"""``thinwire report RUN...``: a page of finished runs, see ``fl_app.report``."""

from fl_app.report.__main__ import main as report


def main(arguments: list[str]) -> int:
    """Make the page; return the exit status."""
    report(arguments, "thinwire report")
    return 0

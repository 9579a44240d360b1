"""The end of a sweep: its table on the console, results.csv, report.html and pareto.png."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from fl_app.faults.printable import printable
from fl_app.report import page
from fl_app.report.comparison import comparable
from fl_app.runs import catalog
from fl_app.runs.read import Run, read
from fl_app.runs.spreadsheet import to_csv
from fl_app.runs.text import score, size, spread, title, until_target

JOBS = "jobs.jsonl"  # in the sweep's folder: one line per job that has ended
MOST = 1000  # characters of overrides, or of the reason for a failure, in a printed line


@dataclass(frozen=True)
class Job:
    """A job that has ended.

    Attributes
    ----------
    number : int
        Hydra's number of the job.
    words : str
        Its overrides.
    run : str or None
        The folder of its run; None if there is none.
    status : str
        completed, failed, interrupted or unfinished.
    why : str
        The reason if it has not completed, and its log.
    """

    number: int
    words: str
    run: str | None
    status: str
    why: str

    def add_to(self, folder: Path) -> None:
        """Append the job to the list in a sweep's folder."""
        with (folder / JOBS).open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")  # one write: jobs may end simultaneously

    def line(self, run: Run | None) -> str:
        """Return number, overrides and outcome on one line."""
        return f"job {self.number}  {printable(self.words, MOST)}: {self.outcome(run)}"

    def outcome(self, run: Run | None) -> str:
        """Return scores and bytes, or the status and its reason."""
        if self.status != "completed" or run is None:
            return f"{self.status} ({printable(self.why, MOST)})"
        scores = [f"{title(name)} {score(name, v)}" for name, v in run.final("test").items()]
        on = " on test" if scores else ""
        said = [f"{', '.join(scores)}{on}", f"{size(run.ledger.sent())} sent", *self._losses(run)]
        return "; ".join(part for part in ["completed", *said] if part)

    def _losses(self, run: Run) -> list[str]:
        return [f"{run.mark} ({printable('; '.join(run.losses), MOST)})"] if run.mark else []


def jobs_of(folder: Path) -> list[Job]:
    """Return the jobs of a sweep, each with its last outcome, by number."""
    if not (folder / JOBS).exists():
        return []
    jobs = [Job(**json.loads(line)) for line in (folder / JOBS).read_text().splitlines()]
    return sorted({job.words: job for job in jobs}.values(), key=lambda job: job.number)


def conclude(folder: Path) -> int:
    """Print and write the results of a sweep.

    A run that completed while the sweep was being stopped counts too.

    Parameters
    ----------
    folder : Path
        The folder of the sweep.

    Returns
    -------
    int
        The exit status: 0 if all jobs completed, else 1.
    """
    jobs = jobs_of(folder)
    named = [Path(job.run) for job in jobs if job.run is not None]
    others = [read(path) for path in catalog.runs_below(folder) if path not in named]
    found = [read(path) for path in named]
    found += [run for run in others if run.status == "completed"]
    folders = [run.path for run in found]
    if found:
        (folder / "results.csv").write_text(to_csv(catalog.to_frame(found, folder)), newline="")
        print(text(found))
        print(folder / "results.csv")
        print(page.compare_runs(folders, folder / "report.html", folder.name))
    if any(run.status == "completed" for run in found):
        from fl_app.report import picture  # matplotlib

        print(picture.draw(found, folder / "pareto.png"))
    failed = [job for job in jobs if job.status != "completed"]
    for job in failed:
        print(job.line(None))
    return 1 if failed or not jobs else 0


def text(found: Sequence[Run]) -> str:
    """Return a table with a line per configuration, by bytes.

    It shows means and standard deviations over seeds. Runs that have not completed are left out.
    """
    lines = []
    for one in comparable(found):
        target = one["target"]
        aimed = [] if target is None else [f"sent until {one['name']} {target:g}"]
        rows = [["", one["title"], "seeds", f"final {one['name']}", "sent", *aimed]]
        for row in sorted(one["configurations"], key=lambda row: row["bytes"]["mean"]):
            rows.append(
                [
                    row["star"],
                    row["label"],
                    str(len(row["seeds"])),
                    spread(row["score"], partial(score, one["metric"])),
                    size(row["bytes"]["mean"]),
                    *[until_target(row, target) for _ in aimed],
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    lines.append(
        "scores of the last round on test rows, mean ± standard deviation over seeds; sent: all "
        "messages of training and set-up, down and up"
    )
    lines.append("by bytes sent; * on the Pareto front: none has a better mean for fewer bytes")
    if any(run.mark for run in found):
        lines.append("(*) on it, but it lost clients: its bytes and scores are not comparable")
    return "\n".join(lines)

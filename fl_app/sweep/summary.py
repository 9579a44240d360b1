"""The end of a sweep: its table on the console, results.csv, report.html and pareto.png."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fl_app import report
from fl_app.faults.printable import printable
from fl_app.report import picture
from fl_app.report.comparison import comparable
from fl_app.runs import catalog
from fl_app.runs.read import Run, read
from fl_app.runs.spreadsheet import to_csv
from fl_app.runs.text import score, size, title

JOBS = "jobs.jsonl"  # of the sweep's folder: one line for each job that has ended
MOST = 1000  # characters of overrides, or of why a job failed, in a line


@dataclass(frozen=True)
class Job:
    """A job that has ended.

    Attributes
    ----------
    number : int
        Hydra's.
    words : str
        Its overrides.
    run : str or None
        The folder of its run; None if it has left none.
    status : str
        completed, failed, interrupted or unfinished.
    why : str
        Where to look if it is not completed.
    """

    number: int
    words: str
    run: str | None
    status: str
    why: str

    def add_to(self, folder: Path) -> None:
        """Remember the job in a sweep's folder."""
        with (folder / JOBS).open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")  # one write: jobs may end together

    def line(self, run: Run | None) -> str:
        """Return number, overrides and outcome in a line."""
        return f"job {self.number}  {printable(self.words, MOST)}: {self.outcome(run)}"

    def outcome(self, run: Run | None) -> str:
        """Return in a line what came of it."""
        if self.status != "completed" or run is None:
            return f"{self.status} ({printable(self.why, MOST)})"
        scores = [f"{title(name)} {score(name, v)}" for name, v in run.final("test").items()]
        return ", ".join([*scores, f"{size(run.ledger.sent())} sent"])


def jobs_of(folder: Path) -> list[Job]:
    """Return the jobs of a sweep as each ended last."""
    if not (folder / JOBS).exists():
        return []
    jobs = [Job(**json.loads(line)) for line in (folder / JOBS).read_text().splitlines()]
    return sorted({job.words: job for job in jobs}.values(), key=lambda job: job.number)


def conclude(folder: Path) -> int:
    """Sum up the sweep in ``folder``; return 1 if one of its jobs failed, 0 if none did.

    A run that completed while the sweep was stopped is counted too.
    """
    jobs = jobs_of(folder)
    named = [Path(job.run) for job in jobs if job.run is not None]
    others = [read(path) for path in catalog.runs_below(folder) if path not in named]
    found = [read(path) for path in named]
    found += [run for run in others if run.status == "completed"]
    folders = [run.path for run in found]
    if found:
        (folder / "results.csv").write_text(to_csv(catalog.to_frame(found)), newline="")
        print(text(found))
        print(folder / "results.csv")
        print(report.compare(folders, folder / "report.html", folder.name))
    if any(run.status == "completed" for run in found):
        print(picture.draw(folders, folder / "pareto.png"))
    failed = [job for job in jobs if job.status != "completed"]
    for job in failed:
        print(job.line(None))
    return 1 if failed or not jobs else 0


def text(found: Sequence[Run]) -> str:
    """Return a line per configuration, by bytes: means and standard deviations over its seeds.

    Runs that are not complete are left out.
    """
    lines = []
    for one in comparable(found):
        rows = [("", one["title"], "seeds", one["name"], "sent", "until the target")]
        for row in sorted(one["configurations"], key=lambda row: row["bytes"]["mean"]):
            mean, sd = (row["score"][key] for key in ("mean", "sd"))
            met = row["bytes_to_target"]
            seeds = len(row["seeds"])
            missed = seeds - len(met["values"])
            rows.append(
                (
                    "*" if row["front"] else "",
                    row["label"],
                    str(seeds),
                    score(one["metric"], mean)
                    + ("" if sd is None else f" ± {score(one['metric'], sd)}"),
                    size(row["bytes"]["mean"]),
                    f"missed by {missed} of {seeds} seeds" if missed else size(met["mean"]),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    return "\n".join(
        [*lines, "by bytes sent; * on the Pareto front: none has a better mean for fewer bytes"]
    )

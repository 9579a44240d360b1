"""The end of a sweep: its table on the console, results.csv, report.html and pareto.png."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from fl_app import report, runs
from fl_app.report import pareto, picture
from fl_app.run_record import Run
from fl_app.text import score, size, title

JOBS = "jobs.jsonl"  # of the sweep's folder: one line for each job that has ended


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

    def outcome(self, run: Run | None) -> str:
        """Return in a line what came of it."""
        if self.status != "completed" or run is None:
            return f"{self.status} ({self.why})"
        scores = [f"{title(name)} {score(name, v)}" for name, v in run.final("test").items()]
        return ", ".join([*scores, f"{size(run.ledger.sent())} sent"])


def jobs_of(folder: Path) -> list[Job]:
    """Return the jobs of a sweep as each ended last."""
    if not (folder / JOBS).exists():
        return []
    jobs = [Job(**json.loads(line)) for line in (folder / JOBS).read_text().splitlines()]
    return sorted({job.words: job for job in jobs}.values(), key=lambda job: job.number)


def conclude(folder: Path) -> int:
    """Sum up the sweep in ``folder``; return 1 if one of its jobs failed, 0 if none did."""
    jobs = jobs_of(folder)
    folders = [Path(job.run) for job in jobs if job.run is not None]
    if folders:
        table = runs.table(folders)
        table.to_csv(folder / "results.csv", index=False)
        print(text(table))
        print(folder / "results.csv")
        print(report.compare(folders, folder / "report.html", folder.name))
    if any(job.status == "completed" for job in jobs):
        print(picture.draw(folders, folder / "pareto.png"))
    failed = [job for job in jobs if job.status != "completed"]
    for job in failed:
        print(f"job {job.number}  {job.words}: {job.outcome(None)}")
    return 1 if failed or not jobs else 0


def text(table: pd.DataFrame) -> str:
    """Return a line per configuration, means and standard deviations over its seeds.

    ``table`` is that of ``runs.table``; runs that are not complete are left out.
    """
    blocks = []
    done = table[table.status == "completed"]
    for (_, metric), same in done.groupby(["data", "target_metric"]):
        groups = [(str(label), rows) for label, rows in same.groupby("label", sort=False)]
        points = [(r.bytes_total.mean(), r[f"test_{metric}"].mean()) for _, r in groups]
        best = set(pareto.front(points))
        lines = [("", "configuration", "seeds", title(metric), "sent", "to the target")]
        for index in sorted(range(len(groups)), key=lambda i: points[i]):
            label, rows = groups[index]
            mark = "*" if index in best else ""
            lines.append((mark, label, str(len(rows)), *_cells(rows, metric)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        blocks += [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
    return "\n".join([*blocks, "* on the Pareto front: none has a better mean for fewer bytes"])


def _cells(rows: pd.DataFrame, metric: str) -> tuple[str, str, str]:
    scores, until = rows[f"test_{metric}"], rows.bytes_to_target
    spread = f" ± {score(metric, scores.std())}" if len(rows) > 1 else ""
    return (
        score(metric, scores.mean()) + spread,
        size(rows.bytes_total.mean()),
        "missed" if until.isna().any() else size(until.mean()),
    )

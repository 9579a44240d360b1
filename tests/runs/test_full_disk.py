"""A disk that is full in the middle of a run: a real, small file system, without Flower."""

import csv
import gc
import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flwr.app import Message

from fl_app.build import open_session
from fl_app.server_app import MESSAGE_ONLY, Experiment
from tests import small
from tests.disturbed import in_process
from tests.loopback import Loopback
from tests.messages import round_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Filling(Loopback):
    """Nodes, of which the first to train in round 2 fills the server's disk."""

    filler: Path

    def deliver(self, message: Message) -> Message | None:
        if round_of(message) == 2:
            with suppress(OSError), self.filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return super().deliver(message)


def test_a_full_disk_keeps_the_last_round_and_the_run_goes_on_after_making_room(
    small_disk: Path,
) -> None:
    folder = small_disk / "run"
    words = (
        f"{small.DATA} strategy=fedavg codec=fp32 clients_per_round=2 rounds=2 local_epochs=1 "
        f"logger=none output.dir={small_disk} output.name=run"
    )
    grid = Filling(words, 3)
    grid.filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left on device") as caught:
        Experiment(open_session(words), grid, words, setup_seconds=0.0).start()
    assert isinstance(caught.value, MESSAGE_ONLY.kinds)  # the log has no traceback of it
    kept = [path.name for path in (folder / "checkpoints").glob("round-*.safetensors")]
    assert kept == ["round-0001.safetensors"]

    grid.filler.unlink()
    del caught  # the error holds the frames of the run, and so its lock
    gc.collect()
    in_process(f"{words} resume={folder}")
    assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
    with (folder / "ledger.csv").open(newline="") as file:
        trained = [row["round"] for row in csv.DictReader(file) if row["kind"] == "train"]
    assert trained == ["1"] * 4 + ["2"] * 4

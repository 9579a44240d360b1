"""``python -m benchmarks.full_size``: seconds and memory of real rounds at full size.

The competition's 4-bit LoRA entry, one client a round, through `flwr run` (SuperLink, Ray, one
client process) on a VT5 of full size with random weights and a few generated documents. Memory is
the peak of resident memory (VmHWM) that the kernel keeps for every process, so nothing between two
readings is missed. If a process built the model for every message instead of once, the second round
would be slower.
"""

import argparse
import csv
import json
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import psutil

from fl_app.files import project_root
from fl_app.run import submit
from fl_app.simulation.superlink import superlinks

NAME = "bench-full-size"
OVERRIDES = (
    "experiment=nf4_lora model=vt5-base-random rounds=2 local_epochs=1 batch_size=1 "
    "data=docvqa_mini data.providers_per_client=1 data.documents_per_provider=3 "
    "data.test_documents=2 data.unseen_providers=1 data.unseen_documents_per_provider=1 "
    "data.validation_documents=0 "
    "federation.torch_threads=2 target.value=null"
)
ROLES = {"server": re.compile("flwr-simulation"), "client": re.compile("ClientAppActor")}
EVERY = 0.5  # seconds


class Memory(threading.Thread):
    """Reads the peak resident memory of this process's descendants, by role.

    Attributes
    ----------
    peaks : dict
        Bytes by role and process id.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, dict[int, int]] = {role: {} for role in ROLES}
        self.stopped = threading.Event()

    def run(self) -> None:
        """Read every `EVERY` seconds until ``stopped`` is set."""
        while not self.stopped.wait(EVERY):
            for process in psutil.Process().children(recursive=True):
                try:
                    command = " ".join(process.cmdline())
                    peak = peak_memory(process.pid)
                except (psutil.Error, OSError):
                    continue
                for role, pattern in ROLES.items():
                    if pattern.search(command):
                        self.peaks[role][process.pid] = peak


def peak_memory(pid: int) -> int:
    """Return the peak resident memory of a process in bytes, as the kernel counts it."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Run, and print memory and seconds."""
    argparse.ArgumentParser(description="measure two rounds at full size").parse_args()
    folder = project_root() / "runs" / NAME
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier measurement
    memory = Memory()
    began = time.perf_counter()
    with superlinks() as (environment,):
        memory.start()
        failed = submit(f"{OVERRIDES} output.name={NAME}", environment)
        memory.stopped.set()
    memory.join()
    if failed:
        sys.exit(failed)
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "ledger.csv").open(newline="") as file:
        transfers = [row for row in csv.DictReader(file) if row["kind"] == "train"]
    print(f"\n| what | value |\n|---|---|\n| trained scalars | {summary['trainable_scalars']:,} |")
    for role, peaks in memory.peaks.items():
        shown = ", ".join(f"{peak / 2**30:.2f} GiB" for peak in peaks.values())
        print(f"| peak memory, {role} | {shown} |")
    for phase, seconds in summary["seconds"].items():
        print(f"| {phase} | {seconds:.2f} s |")
    print(f"| with start and stop of Flower | {time.perf_counter() - began:.1f} s |")
    for row in transfers:
        print(
            f"| round {row['round']} {row['direction']} | payload {int(row['payload_bytes']):,} B, "
            f"message {int(row['message_bytes']):,} B, encode {float(row['encode_s']):.3f} s, "
            f"decode {float(row['decode_s']):.3f} s |"
        )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

"""``python -m deploy.submit [OVERRIDE ...]``: run an experiment on the nodes of a deployment.

``deploy/connect.sh`` sets the SuperLink beforehand. This command shows the run's log; Ctrl-C only
stops showing it, ``flwr stop`` stops the run. The exit status is that of the run: 0 completed, 1
failed, 2 wrong configuration.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from fl_app.config import ConfigError, compose
from fl_app.faults.printable import printable, printable_lines
from fl_app.files import keep_private
from fl_app.preflight import check_node, check_strategy
from fl_app.runs.resume import ResumeError, with_stored_overrides
from fl_app.simulation import bundle
from fl_app.simulation.proxies import loopback_direct
from fl_app.simulation.superlink import CONNECTION, script

LINE = 2000  # characters shown of a line of the run's log
COLOUR = re.compile(r"\x1b\[\d{1,2}m")  # Flower colours the level of a line


def main(arguments: list[str]) -> int:
    """Submit the run of these overrides, show its log, and return the exit status."""
    keep_private()
    overrides = " ".join(arguments)
    try:
        with suppress(ResumeError):  # the folder is on another machine; the server checks it
            overrides = with_stored_overrides(overrides)
        cfg = compose(overrides)
        check_node(cfg)
        check_strategy(cfg)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="thinwire-") as name:
        app, run_config = bundle.make(Path(name)), Path(name) / "run.toml"
        run_config.write_text(f"overrides = {json.dumps(overrides)}\n")
        submitted = _flwr("run", str(app), CONNECTION, "--run-config", str(run_config))
    if submitted is None:
        return 1
    run = str(int(str(submitted["run-id"])))
    print(f"run {run}: flwr log {run}, flwr stop {run}", flush=True)
    try:
        _show_log(run)
    except KeyboardInterrupt:
        print(f"run {run} continues", file=sys.stderr)
        return 130
    listed = _flwr("list", CONNECTION, "--run-id", run)
    if listed is None:
        return 1
    (entry,) = listed["runs"]
    traffic = entry["network-traffic"]["total-bytes"]
    print(f"{printable(entry['status'])}; Flower counted {traffic:,} bytes to and from the nodes")
    if entry["status"] != "finished:completed":
        if entry["status"] == "finished:failed":  # a stopped run has no details
            print(printable_lines(entry["status-details"]), file=sys.stderr)
        return 1
    return 0


def _show_log(run: str) -> None:
    """Show the run's log as it grows, made printable and without Flower's colours."""
    with subprocess.Popen(
        [script("flwr"), "log", run, CONNECTION, "--stream"],
        env={**loopback_direct(os.environ), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as log:
        assert log.stdout is not None
        for line in log.stdout:
            print(printable(COLOUR.sub("", line.rstrip("\n")), most=LINE), flush=True)


def _flwr(*words: str) -> dict[str, list[dict[str, dict[str, int]]]] | None:
    """Return the answer of Flower's CLI; if it refuses, print the reason and return None."""
    done = subprocess.run(
        [script("flwr"), *words, "--format", "json"],
        env=loopback_direct(os.environ),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    if not answer.get("success"):
        reason = answer.get("error-message", "flwr gave no answer")
        print(printable_lines(reason), file=sys.stderr)
        return None
    return dict(answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

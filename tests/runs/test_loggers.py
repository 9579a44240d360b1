"""The loggers, read back with the tools' own formats: a whole run in one process, told to three."""

import csv
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import wandb
from flwr.app import Message
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from wandb.proto.wandb_internal_pb2 import Record

from fl_app.build import open_session
from fl_app.config import compose
from fl_app.runs.loggers import load
from fl_app.server_app import Experiment
from tests import small
from tests.loopback import Loopback

ALL = "logger=[tensorboard,wandb,mlflow] logger.wandb.mode=offline"
VALIDATION = "data.validation_documents=2"
METHOD = "strategy=fedavg clients_per_round=2 evaluate_clients_per_round=1"


def prepared(folder: Path, words: str, tamper: Any = None) -> Experiment:
    overrides = f"{small.RUN} output.dir={folder.parent} output.name={folder.name} {words}"
    grid = Loopback(overrides, 3, None if tamper is None else dict.fromkeys(range(3), tamper))
    return Experiment(open_session(overrides), grid, overrides, setup_seconds=0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    """A port that would notice a client of Weights & Biases."""
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, server: socket.socket) -> Experiment:
    made = prepared(tmp_path_factory.mktemp("runs") / "one", f"{ALL} {METHOD} {VALIDATION}")
    made.start()
    return made


def test_no_tool_says_a_word(tmp_path: Path) -> None:
    """In a process of its own: a tool speaks when it is imported, and when the process ends."""
    code = (
        "from pathlib import Path; from fl_app.config import compose; "
        "from fl_app.runs.loggers import chosen, load; "
        f"cfg, folder = compose({ALL!r}), Path({str(tmp_path / 'run')!r}); folder.mkdir(); "
        "loggers = [load(name).Logger(cfg, folder) for name in chosen(cfg)]; "
        "[it.log('round', 1, {'test/anls': 0.5}) for it in loggers]; "
        "[it.finish('completed', {'a': 1}, []) for it in loggers]"
    )
    command = [sys.executable, "-W", "ignore::FutureWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    for tool in TOOLS:
        assert series(tmp_path / "run", tool, "test/anls") == [(1, 0.5)]


# ---- what was written, read by each tool's own reader --------------------------------------------


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    return found.Reload()


def records(folder: Path) -> list[Record]:
    """Return the records of an offline run: LevelDB's log format, after a header of 7 bytes."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, found, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    rows = [r.history.item for r in records(folder) if r.WhichOneof("record_type") == "history"]
    return [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items} for items in rows
    ]


def tracked(folder: Path) -> tuple[MlflowClient, Any]:
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("thinwire")
    (found,) = [
        r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == folder.name
    ]
    return client, found


def series(folder: Path, tool: str, name: str) -> list[tuple[int, float]]:
    """Return (step, value) of a series, as the tool has it."""
    if tool == "tensorboard":
        return [(event.step, event.value) for event in events(folder).Scalars(name)]
    if tool == "wandb":
        axis = "bytes_sent" if name.startswith("over_bytes/") else "round"
        return [(row[axis], row[name]) for row in history(folder) if name in row]
    client, found = tracked(folder)
    points = client.get_metric_history(found.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def status(folder: Path, tool: str) -> Any:
    if tool == "tensorboard":
        data = events(folder).summary_metadata["_hparams_/session_end_info"].plugin_data.content
        return HParamsPluginData.FromString(data).session_end_info.status
    if tool == "wandb":
        (ended,) = [r.exit for r in records(folder) if r.WhichOneof("record_type") == "exit"]
        return ended.exit_code
    return tracked(folder)[1].info.status


TOOLS = ("tensorboard", "wandb", "mlflow")
STATUSES = {
    "completed": {"tensorboard": 1, "wandb": 0, "mlflow": "FINISHED"},
    "failed": {"tensorboard": 2, "wandb": 1, "mlflow": "FAILED"},
    "interrupted": {"tensorboard": 2, "wandb": 130, "mlflow": "KILLED"},
}
FLOAT32 = {"tensorboard": 2.0**-24, "wandb": 0.0, "mlflow": 0.0}  # relative error


# ---- one run, three loggers ----------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_scores_are_those_of_metrics_csv(run: Experiment, tool: str) -> None:
    with (run.folder.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"validation", "test", "unseen"}
    for split, metric in {(row["split"], row["metric"]) for row in rows}:
        kept = [
            (int(r["round"]), float(r["value"]))
            for r in rows
            if (r["split"], r["metric"]) == (split, metric)
        ]
        told = series(run.folder.path, tool, f"{split}/{metric}")
        assert [step for step, _ in told] == [step for step, _ in kept]
        assert [v for _, v in told] == pytest.approx([v for _, v in kept], abs=1e-6)


@pytest.mark.parametrize("tool", TOOLS)
def test_bytes_are_those_of_the_ledger(run: Experiment, tool: str) -> None:
    rows = run.folder.ledger.rows
    assert {r.kind for r in rows} == {"setup", "train", "evaluate"}
    wanted = {
        "total": lambda r: r.kind != "evaluate",
        "evaluate": lambda r: r.kind == "evaluate",
        "setup": lambda r: r.kind == "setup",
        "message_up": lambda r: (r.kind, r.direction) == ("train", "up"),
        "message_down": lambda r: (r.kind, r.direction) == ("train", "down"),
    }
    for name, of in wanted.items():
        sums = [sum(r.message_bytes for r in rows if of(r) and r.round <= n) for n in (0, 1, 2)]
        told = dict(series(run.folder.path, tool, f"bytes/{name}"))
        # The nodes are asked who they are when the first round begins, which counts as round 0.
        assert 0 == told.pop(0) <= sums[0]
        assert told == pytest.approx({1: sums[1], 2: sums[2]}, rel=FLOAT32[tool])
        summary = json.loads((run.folder.path / "summary.json").read_text())
        assert summary["bytes"][name] == sums[2]


@pytest.mark.parametrize("tool", TOOLS)
def test_scores_are_over_bytes_too(run: Experiment, tool: str) -> None:
    sent = [0, *(run.folder.ledger.sent(until=n) for n in (1, 2))]
    over_rounds = series(run.folder.path, tool, "test/anls")
    over_bytes = series(run.folder.path, tool, "over_bytes/test/anls")
    assert over_bytes == [(sent[n], value) for n, value in over_rounds]
    assert sent[0] < sent[1] < sent[2]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_that_completed_is_marked_so(run: Experiment, tool: str) -> None:
    assert status(run.folder.path, tool) == STATUSES["completed"][tool]


def test_the_configuration_is_the_hyper_parameters(run: Experiment) -> None:
    folder, lr = run.folder.path, run.session.cfg.optimizer.lr
    start = events(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(start).session_start_info.hparams
    assert hparams["optimizer.lr"].number_value == lr
    assert tracked(folder)[1].data.params["optimizer.lr"] == str(lr)
    updates = {
        update.key: json.loads(update.value_json)
        for record in records(folder)
        if record.WhichOneof("record_type") == "run"
        for update in record.run.config.update
    }
    assert updates["optimizer"]["lr"] == lr


def test_the_summary_and_the_files_go_along(run: Experiment) -> None:
    folder = run.folder.path
    summary = json.loads((folder / "summary.json").read_text())
    client, found = tracked(folder)
    bits = summary["bits_per_scalar_up"]
    assert found.data.metrics["summary/bits_per_scalar_up"] == bits
    assert found.data.tags["theta0_digest"] == summary["theta0_digest"]
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert names == {"config.yaml", "ledger.csv", "metrics.csv", "summary.json"}
    (copied,) = (folder / "wandb").glob(f"offline-run-*/files/{folder.name}")
    assert {file.name for file in copied.iterdir()} == names
    assert json.loads((copied / "summary.json").read_text()) == summary
    updates = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records(folder)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert updates["bits_per_scalar_up"] == bits
    assert updates["status"] == "completed"


def test_axes_are_declared(run: Experiment) -> None:
    metrics = [r.metric for r in records(run.folder.path) if r.HasField("metric")]
    axes = {m.glob_name: m.step_metric for m in metrics if m.glob_name}
    assert axes["test/*"] == axes["bytes/*"] == "round"
    assert axes["over_bytes/*"] == "bytes_sent"


def test_offline_is_offline(run: Experiment, server: socket.socket) -> None:
    assert status(run.folder.path, "wandb") == 0
    with pytest.raises(BlockingIOError):  # nobody has knocked
        server.accept()


def test_a_second_run_of_the_same_seed_tells_the_same(run: Experiment, tmp_path: Path) -> None:
    again = prepared(tmp_path / "again", f"logger=tensorboard {METHOD} {VALIDATION}")
    again.start()
    names = events(run.folder.path).Tags()["scalars"]
    assert events(again.folder.path).Tags()["scalars"] == names
    for name in names:
        if not name.startswith("seconds/"):
            told = series(again.folder.path, "tensorboard", name)
            assert told == series(run.folder.path, "tensorboard", name)


def test_runs_that_start_at_once_share_a_database(tmp_path: Path) -> None:
    """Forks: what two processes do to one database, without importing MLflow twice more."""
    cfg, (read, write) = compose("logger=mlflow"), os.pipe()
    folders = [tmp_path / str(number) for number in range(2)]
    children = []
    for folder in folders:
        children.append(os.fork())
        if children[-1] == 0:
            status_ = 1
            try:
                os.close(write)
                os.read(read, 1)  # until the other is there too
                it = load("mlflow").Logger(cfg, folder)
                it.log("round", 1, {"test/anls": 0.5})
                it.finish("completed", {}, [])
                status_ = 0
            finally:
                os._exit(status_)
    os.close(write)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    os.close(read)
    for folder in folders:
        assert status(folder, "mlflow") == "FINISHED"
        assert series(folder, "mlflow", "test/anls") == [(1, 0.5)]


# ---- runs and loggers that end early -------------------------------------------------------------


def test_a_run_that_fails_is_marked_so(tmp_path: Path) -> None:
    made = prepared(
        tmp_path / "run", f"{ALL} federation.reply_timeout=1", tamper=lambda reply: None
    )
    with pytest.raises(RuntimeError, match="every client"):
        made.start()
    for tool in TOOLS:
        assert status(tmp_path / "run", tool) == STATUSES["failed"][tool]
        assert [step for step, _ in series(tmp_path / "run", tool, "test/anls")] == [0]


def test_a_run_that_is_interrupted_is_marked_so(tmp_path: Path) -> None:
    def stop(reply: Message) -> Message:
        made.finish("interrupted")  # as Flower's exit handler does, in the middle of a round
        return reply

    made = prepared(tmp_path / "run", ALL, stop)
    with pytest.raises(InterruptedError):
        made.start()
    for tool in TOOLS:
        assert status(tmp_path / "run", tool) == STATUSES["interrupted"][tool]


def fill_the_disk(made: Experiment) -> None:
    """Let the event file's next write find no space."""
    writer = made.tracking.loggers["tensorboard"].writer  # type: ignore[attr-defined]
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._py_recordio_writer._writer.fileno())
    os.close(full)


def spoil_the_database(made: Experiment) -> None:
    (made.folder.path.parent / "mlflow.db").write_bytes(b"no database" * 1000)


def kill_the_service(made: Experiment) -> None:
    """Kill the process that writes and uploads for wandb, as a system without memory does."""
    for child in psutil.Process().children(recursive=True):
        if "wandb-core" in child.name():
            child.kill()
            child.wait()


@pytest.fixture
def mended() -> Iterator[None]:
    yield
    with suppress(OSError):  # of the connection to a service that was killed
        wandb.teardown()


@pytest.mark.usefixtures("mended")
@pytest.mark.parametrize(
    ("tool", "harm"),
    [
        ("tensorboard", fill_the_disk),
        ("mlflow", spoil_the_database),
        ("wandb", kill_the_service),
    ],
)
def test_a_logger_that_fails_ends_no_run(tmp_path: Path, capsys, tool: str, harm) -> None:
    state = SimpleNamespace(harmed=False)

    def harm_once(reply: Message) -> Message:
        if not state.harmed:
            state.harmed = True
            harm(made)
        return reply

    made = prepared(tmp_path / "run", ALL, harm_once)
    made.start()
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("completed", 2)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(warnings) == 1
    assert f"logger={tool} failed" in warnings[0]
    for other in {*TOOLS} - {tool}:
        assert status(tmp_path / "run", other) == STATUSES["completed"][other]
        assert [step for step, _ in series(tmp_path / "run", other, "test/anls")] == [0, 1, 2]

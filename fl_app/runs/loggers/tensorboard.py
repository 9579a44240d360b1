"""TensorBoard: event files in ``RUN/tensorboard/``, by tensorboardX, which needs no TensorFlow.

TensorBoard stores values in 32 bits, so that a byte count above 16 MB loses its last digits. Steps
are exact; in ``over_bytes/`` they are bytes.
"""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.summary import hparams, scalar

from fl_app.config import plain
from fl_app.runs.loggers.flat import flat
from fl_app.tasks import metrics


def check(options: DictConfig) -> None:
    """Check nothing: the event file is written beside the run's other files."""


class Logger:
    """Writes immediately, in this thread.

    tensorboardX's SummaryWriter queues events for a thread. When a full disk has ended that thread,
    it waits forever on the full queue.
    """

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        path = folder / "tensorboard"
        path.mkdir(exist_ok=True)  # it exists if the run is resumed
        self.writer = EventsWriter(str(path / "events"))
        splits = ("validation", "test", "unseen")
        scored = [f"{s}/{m}" for s in splits for m in metrics.of(cfg.task)]
        experiment, start, _ = hparams(flat(plain(cfg), "."), dict.fromkeys(scored, 0.0))
        self._write(experiment, 0)
        self._write(start, 0)
        self.writer.flush()

    def log(self, axis: str, step: int, values: dict[str, float]) -> None:
        """Write one event per value and flush them."""
        for name, value in values.items():
            self._write(scalar(name, value), step)
        self.writer.flush()

    def finish(self, status: str, summary: dict[str, Any], files: list[Path]) -> None:
        """Write the status, for the table of hyper-parameters, and close the file."""
        ended = "STATUS_SUCCESS" if status == "completed" else "STATUS_FAILURE"
        content = HParamsPluginData(
            session_end_info=SessionEndInfo(status=Status.Value(ended), end_time_secs=time.time()),
            version=0,
        )
        plugin = SummaryMetadata.PluginData(
            plugin_name="hparams", content=content.SerializeToString()
        )
        value = Summary.Value(
            tag="_hparams_/session_end_info", metadata=SummaryMetadata(plugin_data=plugin)
        )
        self._write(Summary(value=[value]), 0)
        self.writer.close()

    def _write(self, summary: Any, step: int) -> None:
        self.writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))

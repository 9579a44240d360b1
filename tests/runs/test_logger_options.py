"""Options of loggers: the default, what is refused, and what a tool needs before it starts."""

from pathlib import Path

import pytest

from fl_app.config import ConfigError, compose
from fl_app.preflight import check


def test_event_files_are_the_default_and_none_is_none() -> None:
    assert list(compose("").logger) == ["tensorboard"]
    for nothing in ("logger=none", "logger=[]"):
        check(cfg := compose(nothing))
        assert not cfg.get("logger")


def test_a_logger_is_no_other_experiment() -> None:
    assert compose("experiment=thin logger=wandb").experiment == "thin"
    assert compose("logger=[tensorboard,mlflow]").experiment == compose("").experiment
    assert compose("strategy=fedavg logger=none").experiment == "custom"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("logger=comet", "wandb"),
        ("logger=[tensorboard,comet]", "wandb"),
        ("logger.wandb.mode=offline", "tensorboard"),
        ("logger=wandb logger.wandb.mode=disabled", "offline"),
        ("logger=wandb logger.wandb.tags=x", "a list of names"),
        ("logger=wandb logger.wandb.api_key=x", "project"),
        ("logger=wandb logger.wandb.project=null", "type str"),
        ("logger=wandb logger.wandb.entity=3", "null or a name"),
        ("logger=mlflow logger.mlflow.experiment_name=''", "a name"),
        (
            "logger=mlflow logger.mlflow.tracking_uri=https://me:secret@host",
            "MLFLOW_TRACKING_PASSWORD",
        ),
        (
            "logger=mlflow logger.mlflow.tracking_uri=https://secret@host",
            "MLFLOW_TRACKING_PASSWORD",
        ),
    ],
)
def test_a_wrong_option_is_refused(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides))
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("tool", ["wandb", "mlflow"])
def test_a_missing_extra_is_named(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_app.runs.loggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'thinwire\[{tool}\]'"):
        check(compose(f"logger={tool}"))


def test_online_needs_a_key_before_anything_starts(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"WANDB_API_KEY, or logger\.wandb\.mode=offline"):
        check(compose("logger=wandb"))
    check(compose("logger=wandb logger.wandb.mode=offline"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check(cfg := compose("logger=wandb"))
    assert "0" * 40 not in str(cfg)

"""The first job of a sweep, found without Hydra's own sweeper."""

import pytest

from fl_app.config import ConfigError
from fl_app.sweep.first_job import check_first, first_job


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        (["codec=nf4,sign", "seed=range(1,4)", "output.name=x"], ["codec=nf4", "seed=1"]),
        (["rounds=2", "rounds=3"], ["rounds=3"]),
        (["codec.up={id:nf4},{id:sign}"], ["codec.up={id:nf4}"]),
        (["adapter.target_modules=[q,v],[q]"], ["adapter.target_modules=[q,v]"]),
        (["job=\"codec=nf4 rounds=2\",\"codec=sign\""], ["codec=nf4", "rounds=2"]),
        (["job='codec=sign'", "hydra/launcher=joblib", "resume=true"], ["codec=sign"]),
        (["optimizer.lr=interval(0,1)", "rounds=1,2"], ["rounds=1"]),  # a search draws it
        (["+sweep=everything", "rounds=1"], ["seed=0", "rounds=1", "experiment=nf4_single"]),
        (
            ["+sweep=bytes_to_target"],
            ["codec=uniform_entropy", "codec.reference=theta0", "adapter.r=4", "local_epochs=6"],
        ),
        (["+sweep=nope"], None),
        (["hydra.sweeper.params.seed=1"], None),
        (["rounds"], None),
    ],
)  # fmt: skip
def test_the_first_job(typed: list[str], first: list[str] | None) -> None:
    assert first_job(typed) == first


def test_what_is_wrong_in_the_first_job_is_refused() -> None:
    check_first(["-m", "codec=nf4,nope", "seed=0,1"])
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        check_first(["-m", "codec=nf4,sign", "optimizer.lr=-1"])

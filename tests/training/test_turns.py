"""Settings by round."""

import pytest

from fl_app.config import ConfigError, compose
from fl_app.config.keys import plain
from fl_app.training import checks
from fl_app.training.turns import epochs, of_round

TWO = "turns=[{local_epochs:3,optimizer:{lr:0.5}},{local_epochs:1,batch_size:2}]"


def test_a_round_has_its_turns_settings_and_the_last_ones_hold_on() -> None:
    cfg = compose(TWO)
    first, *later = (of_round(cfg, number) for number in (1, 2, 3, 9))
    assert (first.local_epochs, first.batch_size, first.optimizer.lr) == (3, cfg.batch_size, 0.5)
    for one in later:
        assert (one.local_epochs, one.batch_size, one.optimizer.lr) == (1, 2, cfg.optimizer.lr)
    assert of_round(cfg, 1).optimizer.eps == cfg.optimizer.eps
    assert epochs(plain(cfg)) == [3, 1]


def test_a_run_without_turns_is_the_same_in_every_round() -> None:
    cfg = compose("local_epochs=4")
    assert of_round(cfg, 7) == cfg
    assert epochs(plain(cfg)) == [4]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("[{local_epoch:3}]", r"turns\[0\]\.local_epoch is no setting.*'local_epochs'"),
        ("[{optimizer:{lrs:3}}]", r"turns\[0\]\.optimizer\.lrs is no setting.*optimizer\.lr"),
        ("[{optimizer:{id:shampoo}}]", r"turns\[0\]\.optimizer\.id is no setting"),
        ("[{rounds:3}]", r"turns\[0\]\.rounds is no setting"),
        ("[{local_epochs:0}]", r"local_epochs=0 should be"),
        ("[{},{optimizer:{lr:-1}}]", r"optimizer\.lr=-1 should be"),
        ("[3]", r"should be a list of mappings"),
        ("[{optimizer:3}]", r"should be a mapping"),
    ],
)
def test_a_turn_that_cannot_be_is_refused(turns: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checks.check(compose(f"turns={turns}"))

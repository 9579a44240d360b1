"""A turn that the simulator loses is done again, with the client's state as it was."""

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import InMemoryGrid
from ray.exceptions import ActorDiedError, RayTaskError

from fl_app.client.answered import once
from fl_app.client.simulated import is_repeated, simulated_in_process
from fl_app.faults import FaultError
from fl_app.server.replies import check_kept
from fl_app.server.round import RoundFailedError
from fl_app.simulation import lost_turns
from fl_app.simulation.lost_turns import REPEATS, RepeatingBackend


class Actor:
    """What Ray would do: each actor does the next of some endings of a turn, on a copy."""

    def __init__(self, endings: list[Any], seen: list[Context]) -> None:
        self.run = SimpleNamespace(remote=self._run)
        self.endings, self.seen = endings, seen

    def _run(self, _: Any, message: Message, client: str, context: Context) -> Any:
        self.seen.append(context)
        ending = self.endings.pop(0)
        if isinstance(ending, Exception):
            return ending
        after = Context(context.run_id, context.node_id, {**context.node_config}, RecordDict(), {})
        return client, ending, after


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> RepeatingBackend:
    def get(turn: Any) -> Any:
        if isinstance(turn, Exception):
            raise turn
        return turn

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    monkeypatch.setattr(lost_turns.ray, "get", get)
    made = RepeatingBackend.__new__(RepeatingBackend)
    made.app_fn = None
    return made


def turn(backend: RepeatingBackend, *endings: Any) -> tuple[Message, Context, list[Context], list]:
    """Let a client take its turn; return reply, state, the states given, and the actors left."""
    seen: list[Context] = []
    left = [*endings]
    backend.pool = SimpleNamespace(
        pool=[Actor(left, seen)], create_actor_fn=lambda: Actor(left, seen)
    )
    context = Context(1, 7, {"partition-id": 3}, RecordDict(), {})
    reply, after = backend.process_message(Message(RecordDict(), 7, "train"), context)
    assert context.node_config == after.node_config == {"partition-id": 3}
    assert all(one.state is context.state for one in seen)
    return reply, after, seen, backend.pool.pool


@pytest.mark.parametrize("losses", range(REPEATS + 1))
def test_a_lost_turn_is_done_again_by_another_actor(backend, losses: int, caplog) -> None:
    answer = Message(RecordDict(), 7, "train")
    reply, after, seen, actors = turn(backend, *[ActorDiedError()] * losses, answer)
    assert reply is answer
    assert after.state is not seen[0].state  # the client's new one
    assert len(actors) == 1
    with simulated_in_process():
        assert [is_repeated(one) for one in seen] == [False, *[True] * losses]
    assert not any(map(is_repeated, seen))  # of a real node
    assert caplog.text.count("lost a turn of client 3, which is done again") == losses


def test_a_turn_that_is_lost_every_time_ends_the_run(backend) -> None:
    reply, _, seen, actors = turn(backend, *[ActorDiedError()] * (REPEATS + 1))
    assert (len(seen), len(actors)) == (REPEATS + 1, 1)
    with pytest.raises(RoundFailedError, match=r"lost a turn of client 3 3 times.*memory"):
        check_kept(InMemoryGrid.__new__(InMemoryGrid), reply)
    check_kept(SimpleNamespace(), reply)  # a real node's words end no run


def test_what_the_client_raised_is_its_answer(backend) -> None:
    with pytest.raises(RayTaskError):
        turn(backend, RayTaskError("run", "traceback", ValueError("a row")))
    assert len(backend.pool.pool) == 1
    answered = Message(
        Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "a row"),
        reply_to=Message(RecordDict(), 7, "train"),
    )
    check_kept(InMemoryGrid.__new__(InMemoryGrid), answered)


def test_what_is_answered_once_may_be_begun_again_after_a_loss(tmp_path) -> None:
    """The first try has noted it on disk, before it was lost."""
    context = Context(1, 7, {"state-dir": str(tmp_path)}, RecordDict(), {})
    again = Context(1, 7, {**context.node_config, lost_turns.REPEATED: True}, RecordDict(), {})
    with simulated_in_process():
        once(context, "keys")
        once(again, "keys")
        with pytest.raises(FaultError, match="answered"):
            once(context, "keys")
    with pytest.raises(FaultError, match="answered"):
        once(again, "keys")  # of a real node

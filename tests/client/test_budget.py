"""What a client's rows may spend, and who counts it: the client on its disk, the server beside."""

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app.aggregation.inner import inner_strategy
from fl_app.aggregation.sampling import turns as planned
from fl_app.build import forget_session, open_session
from fl_app.client import budget
from fl_app.client.simulated import simulated_in_process
from fl_app.config import compose
from fl_app.faults import FaultError
from fl_app.privacy import accounting, dp_sgd
from fl_app.privacy.budget import check_turns, mechanism, most_turns, spent
from fl_app.privacy.spent import SPENT, Spent
from fl_app.privacy.turns import Turns
from fl_app.server.coded import Coded
from fl_app.server_app import Experiment
from fl_app.wire.heads import QUESTION
from fl_app.wire.ledger import Ledger
from fl_app.wire.messages import SETUP, setup_question
from fl_app.wire.records import to_record
from tests import small
from tests.combinations import combinations
from tests.loopback import Loopback, RealNodes
from tests.messages import framed, round_of, who

DP = "privacy=dp_sgd adapter=ffa_lora adapter.r=2 codec=fp32 local_epochs=1"
FEW = f"{small.DATA} {DP} strategy=fedavg clients_per_round=3 rounds=2"


# ---- a server that asks for more, and the real ClientApp -----------------------------------------


class Asked:
    """Three clients, and a server that sends them what it likes."""

    def __init__(self, folder: Path, overrides: str) -> None:
        self.here = open_session(overrides)
        self.grid = Loopback(overrides, 3)
        self.coded = Coded(inner_strategy(self.here.cfg), self.here, Ledger(folder / "ledger.csv"))

    def messages(self, number: int = 1) -> list[Message]:
        start = to_record(self.here.theta0)
        return list(self.coded.configure_train(number, start, ConfigRecord(), self.grid))

    def send(self, message: Message, kind: str = "train", **config) -> str:
        """Return why it is refused, "" if it is not; the node remembers nothing but its disk."""
        head = {key: config.pop(key) for key in QUESTION.fields if key in config}
        node = message.metadata.dst_node_id
        self.grid.contexts[node].state = RecordDict()
        sent = framed(message, self.here, **head) if head else message
        content = RecordDict({**sent.content})
        if config:
            content["config"] = ConfigRecord({**content.get("config", {}), **config})
        group = sent.metadata.group_id
        (self.reply,) = self.grid.send_and_receive([Message(content, node, kind, group_id=group)])
        return self.reply.error.reason if self.reply.has_error() else ""


@pytest.fixture(name="asked")
def _asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path, FEW)


def test_a_round_is_answered_once_and_rounds_go_up(asked: Asked) -> None:
    message = asked.messages()[0]
    assert asked.send(message) == ""
    said = asked.reply.content[SPENT]
    rows = len(asked.here.documents(who(message)))
    assert said["turns"] == 1
    assert said["epsilon"] == mechanism(asked.here.cfg, rows).epsilon(1)
    for _ in range(4):
        assert "was asked for round 1, but has answered for 1" in asked.send(message)
    for number in (0, 3, 99999, 2**62):
        said = asked.send(message, **{"server-round": number})
        assert f"server-round={number} should be a whole number in 1..2" in said
    assert asked.send(message, **{"server-round": 2}) == ""
    assert asked.reply.content[SPENT]["turns"] == 2
    assert asked.reply.content[SPENT]["epsilon"] <= asked.here.cfg.privacy.epsilon
    assert "has answered for 2" in asked.send(message)


def test_the_configuration_says_what_a_method_is(asked: Asked) -> None:
    message = asked.messages()[0]
    assert (
        "the server says proximal-mu=100.0, but the run's configuration nothing of it"
        in asked.send(message, **{"proximal-mu": 100.0})
    )
    assert "the server says clipping_norm=9.0" in asked.send(message, clipping_norm=9.0)
    assert "requests no scores" in asked.send(message, "evaluate")
    assert asked.send(message) == ""  # what was refused has cost nothing


def test_fedprox_and_client_side_clipping_take_their_numbers_from_the_configuration(
    tmp_path: Path,
) -> None:
    words = f"{small.RUN} codec=fp32 clients_per_round=3 adapter=ffa_lora adapter.r=2"
    prox = Asked(tmp_path, f"{words} strategy=fedprox")
    message = prox.messages()[0]
    assert "proximal-mu=0.5, but the run's configuration 0.01" in prox.send(
        message, **{"proximal-mu": 0.5}
    )
    assert prox.send(message) == ""
    clipped = Asked(tmp_path, f"{words} strategy=fedavg_dp_client codec.up={{id:fp32}}")
    message = clipped.messages()[0]
    assert "clipping_norm=1e+30, but the run's configuration 0.1" in clipped.send(
        message, clipping_norm=1e30
    )
    assert "requests no scores" in clipped.send(message, "evaluate")


def test_signs_are_sent_once_in_a_run_and_by_those_that_are_asked(tmp_path: Path) -> None:
    forget_session()
    words = f"{small.RUN} strategy=fed_sb adapter=lora_sb codec=fp32"
    everyone = Asked(tmp_path, f"{words} adapter.init=client_mean")
    everyone.coded.clients.find(everyone.grid)
    for client, node in everyone.coded.clients.nodes.items():
        question = setup_question(node, client)
        assert everyone.send(question, f"query.{SETUP}") == ""
        for _ in range(2):
            again = everyone.send(question, f"query.{SETUP}")
            assert f"signs of client {client} was already answered in this run" in again
    forget_session()
    one = Asked(tmp_path, f"{words} adapter.init=first_client")
    one.coded.clients.find(one.grid)
    question = setup_question(one.coded.clients.nodes[1], 1)
    assert "asks client 1 for no signs of its gradient" in one.send(question, f"query.{SETUP}")


def test_a_turn_counts_that_was_killed_before_its_reply(asked: Asked, monkeypatch) -> None:
    message = asked.messages()[0]
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(dp_sgd, "train", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        asked.send(message)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert "has answered for 1" in asked.send(message)
    assert asked.send(message, **{"server-round": 2}) == ""
    assert asked.reply.content[SPENT]["turns"] == 2


def test_without_privacy_a_round_may_be_asked_for_again(tmp_path: Path) -> None:
    plain = Asked(tmp_path, FEW.replace("privacy=dp_sgd", ""))
    message = plain.messages()[0]
    assert [plain.send(message), plain.send(message)] == ["", ""]
    assert SPENT not in plain.reply.content


# ---- a node with rows of its own: over all runs -------------------------------------------------

BASE = compose(
    f"{small.DATA} {DP} strategy=fedavg clients_per_round=3 rounds=3 batch_size=4 "
    "privacy.epsilon=null privacy.noise_multiplier=2"
)
TEXTS = [{"text": f"row {k}", "label": k} for k in range(40)]


def run_of(**values):
    """A run's configuration with other values: composing takes longer than a test."""
    if "privacy__epsilon" in values:
        values["privacy__noise_multiplier"] = "null"
    dots = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    return OmegaConf.merge(BASE, OmegaConf.from_dotlist(dots))


def node(state: Path, run: int, **config: str) -> Context:
    own = {"partition-id": 0, "num-partitions": 3, "data-path": "/rows", "state-dir": str(state)}
    return Context(run, 5, own | config, RecordDict(), {"overrides": ""})


def allowing(folder: Path, **rules: float) -> dict[str, str]:
    path = folder / f"policy-{len(list(folder.iterdir()))}.yaml"
    path.write_text(json.dumps({"privacy": rules}))
    path.chmod(0o600)
    return {"policy": str(path)}


def rows(some: Sequence[int]) -> Dataset:
    return Dataset.from_list([TEXTS[k] for k in some])


def turn(context: Context, cfg, number: int, some: Dataset) -> Spent:
    return budget.begin(context, cfg, 0, number, some)


def test_all_runs_on_the_same_rows_have_one_budget(tmp_path: Path) -> None:
    """Without the operator's number, what a run promises; with it, that number."""
    some, cfg = rows(range(20)), run_of(privacy__epsilon=3)
    for number in (1, 2, 3):
        said = turn(node(tmp_path, 1), cfg, number, some)
    assert (said.turns, said.delta) == (3, 1 / 40)
    assert 2.9 < said.epsilon <= 3
    with pytest.raises(FaultError, match=r"after 3, would bring .* where 3 is what the run prom"):
        turn(node(tmp_path, 2), cfg, 1, some)
    rules = allowing(tmp_path, epsilon=5)
    for number in (1, 2, 3):
        said = turn(node(tmp_path, 2, **rules), cfg, number, some)
    assert said.turns == 6
    assert 3 < said.epsilon <= 5
    third = node(tmp_path, 3, **rules)
    refused = []
    for number in (1, 2, 3):
        try:
            assert turn(third, cfg, number, some).epsilon <= 5
        except FaultError as error:
            refused.append(str(error))
    assert all("where 5 is what the node's policy allows" in text for text in refused)
    assert 1 <= len(refused) <= 3


def test_the_operators_number_holds_for_rows_that_a_run_names(tmp_path: Path) -> None:
    """A real node without a ``data-path``, whose policy lets runs read folders of its disk."""
    some, cfg, rules = rows(range(20)), run_of(privacy__epsilon=3), allowing(tmp_path, epsilon=3)
    contexts = [node(tmp_path, run, **rules) for run in (1, 2)]
    for context in contexts:
        del context.node_config["data-path"]
    for number in (1, 2, 3):
        turn(contexts[0], cfg, number, some)
    with pytest.raises(FaultError, match="after 3, would bring"):
        turn(contexts[1], cfg, 1, some)
    with pytest.raises(FaultError, match="after 3, would bring"):
        budget.check_plan(contexts[1], cfg, 0, some)


def test_runs_of_different_noise_add_up_as_one_composition(tmp_path: Path) -> None:
    some, rules = rows(range(20)), allowing(tmp_path, epsilon=50, delta=1e-3)
    history = []
    for run, (noise, batch) in enumerate([(2.0, 4), (0.9, 8), (5.0, 20)], start=1):
        cfg = run_of(privacy__noise_multiplier=noise, batch_size=batch)
        asked = mechanism(cfg, 20)
        history.append((asked.noise_multiplier, asked.sample_rate, asked.steps))
        said = turn(node(tmp_path, run, **rules), cfg, 1, some)
        assert said.delta == 1e-3
        assert said.epsilon == accounting.composed(history, 1e-3)
    alone = [accounting.composed([one], 1e-3) for one in history]
    assert max(alone) < said.epsilon < sum(alone)


@pytest.mark.parametrize(
    ("later", "turns"),
    [
        (range(10), 2),
        (range(9, -1, -1), 2),
        (range(12), 2),  # some were added
        (range(5), 2),  # some were removed
        ([9, *range(20, 30)], 2),  # one is left
        (range(20, 30), 1),
    ],
)
def test_rows_keep_what_they_have_spent_wherever_they_are(tmp_path, later, turns: int) -> None:
    rules, cfg = allowing(tmp_path, epsilon=30), run_of()
    turn(node(tmp_path, 1, **rules), cfg, 1, rows(range(10)))
    some = rows(later).select_columns(["label", "text"])
    other = node(tmp_path, 2, **rules, **{"data-path": "/elsewhere"})
    assert turn(other, cfg, 1, some).turns == turns


def test_what_is_in_a_row_decides_and_not_how_it_is_stored() -> None:
    some = rows(range(3))
    assert [*budget.digests(some)] == [*budget.digests(some.select_columns(["label", "text"]))]
    assert [*budget.digests(some.select([2, 0]))] == [[*budget.digests(some)][k] for k in (2, 0)]
    assert len({*budget.digests(rows([0, 0, 1]))}) == 2


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.8, 2.0, 6.0]), st.sets(st.integers(0, 5), min_size=1)),
        max_size=7,
    ),
    st.floats(0.5, 12),
)
def test_no_row_ever_spends_more_than_is_allowed(tmp_path_factory, taken, most: float) -> None:
    """Whatever runs come, on whatever parts of the rows."""
    folder = tmp_path_factory.mktemp("budget")
    rules = allowing(folder, epsilon=most, delta=1e-2)
    accepted: list[tuple[accounting.Release, set[int]]] = []
    for run, (noise, some) in enumerate(taken, start=1):
        cfg = run_of(privacy__noise_multiplier=noise)
        asked = mechanism(cfg, len(some))
        with contextlib.suppress(FaultError):
            turn(node(folder, run, **rules), cfg, 1, rows(sorted(some)))
            accepted.append(((asked.noise_multiplier, asked.sample_rate, asked.steps), some))
    for row in range(6):
        history = [release for release, some in accepted if row in some]
        assert accounting.composed(history, 1e-2) <= most
    if taken and accounting.composed([(0.8, 1.0, 2)], 1e-2) <= most:
        assert accepted


def test_a_run_that_the_budget_has_no_room_for_is_refused_before_it_begins(tmp_path) -> None:
    some, cfg = rows(range(20)), run_of(privacy__epsilon=3)
    budget.check_plan(node(tmp_path, 1), cfg, 0, some)
    turn(node(tmp_path, 1), cfg, 1, some)
    budget.check_plan(node(tmp_path, 1), cfg, 0, some)  # it has two turns left, and has room
    with pytest.raises(FaultError, match="3 more private turns, after 1"):
        budget.check_plan(node(tmp_path, 2), cfg, 0, some)
    going_on = node(tmp_path, 3)
    (tmp_path / "3").mkdir()
    (tmp_path / "3/continues.json").write_text('["1"]')
    budget.check_plan(going_on, cfg, 0, some)  # run 1, resumed
    assert turn(going_on, cfg, 1, some).turns == 2  # its round again is one more turn
    assert turn(going_on, cfg, 2, some).turns == 3
    with pytest.raises(FaultError, match="after 3"):
        turn(going_on, cfg, 3, some)


def test_a_simulation_counts_by_run_so_that_it_can_be_repeated(tmp_path: Path) -> None:
    some, cfg = rows(range(20)), run_of(privacy__epsilon=3)
    with simulated_in_process():
        for run in (1, 2):
            for number in (1, 2, 3):
                assert turn(node(tmp_path, run), cfg, number, some).turns == number
        (tmp_path / "3").mkdir()
        (tmp_path / "3/continues.json").write_text('["2"]')
        with pytest.raises(FaultError, match="after 3"):  # resumed: run 2 is over
            turn(node(tmp_path, 3), cfg, 3, some)
    assert not (tmp_path / budget.FILE).exists()


def test_a_real_node_takes_part_in_one_run_on_its_rows_and_is_left_out_of_the_next(
    tmp_path,
) -> None:
    """From the first question on, with the strict policy, which has no number of the operator's."""
    words = f"{FEW} rounds=1 privacy.noise=secret"
    open_session(words).documents(0).to_parquet(tmp_path / "rows.parquet")
    grid = RealNodes(words, 3, **{"data-path": str(tmp_path / "rows.parquet")})
    for context in grid.contexts.values():  # three nodes have equal rows: each counts its own
        context.node_config["state-dir"] = str(tmp_path / f"node-{context.node_id}")
    here = open_session(words)
    coded = Coded(inner_strategy(here.cfg), here, Ledger(tmp_path / "ledger.csv"))
    messages = coded.configure_train(1, to_record(here.theta0), ConfigRecord(), grid)
    replies = grid.send_and_receive(messages)
    assert [reply.content[SPENT]["turns"] for reply in replies] == [1, 1, 1]
    for node, context in grid.contexts.items():
        context.run_id = 2
        (answer,) = grid.send_and_receive([Message(RecordDict(), node, MessageType.QUERY)])
        assert "budget: 1 more private turns, after 1, would bring" in answer.error.reason
        assert (tmp_path / f"node-{node}" / budget.FILE).exists()


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [_garbage, _half, lambda path: path.write_bytes(b""), Path.unlink])
def test_a_count_that_is_damaged_or_gone_is_not_begun_anew(tmp_path: Path, harm) -> None:
    some, cfg = rows(range(20)), run_of(rounds=9)
    turn(node(tmp_path, 1), cfg, 1, some)
    path = tmp_path / budget.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    harm(path)
    for number in (2, 3):
        with pytest.raises(FaultError, match="damaged or missing; ask the node's operator"):
            turn(node(tmp_path, 1), cfg, number, some)


def test_a_node_that_cannot_write_takes_no_private_turn(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FaultError, match="set state-dir"):
        turn(node(tmp_path / "file", 1), run_of(), 1, rows(range(20)))


def test_of_processes_that_answer_at_once_one_takes_the_turn(tmp_path: Path) -> None:
    some, cfg = rows(range(20)), run_of()
    turn(node(tmp_path, 1), cfg, 1, some)
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                turn(node(tmp_path, 1), cfg, 2, some)
                status = 0
            except FaultError:
                status = 7
            finally:
                os._exit(status)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(statuses) == [0, 7, 7, 7]


# ---- the server's count --------------------------------------------------------------------------


def test_what_was_asked_is_on_disk_and_a_line_that_was_cut_off_is_not(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns.csv")
    assert (turns.last, turns.count()) == (0, {})
    turns.add(1, [0, 2])
    turns.add(2, [2])
    with (tmp_path / "turns.csv").open("a") as file:
        file.write("3,1")
    again = Turns(tmp_path / "turns.csv")
    assert (again.last, again.count()) == (2, {0: 1, 2: 2})
    again.add(2, [2])
    assert (tmp_path / "turns.csv").read_text() == "round,client\n1,0\n1,2\n2,2\n2,2\n"


def test_fewer_nodes_than_clients_take_more_turns_and_are_refused() -> None:
    cfg = run_of(strategy__sampler="cyclic", federation__clients=10, clients_per_round=5, rounds=8)
    assert most_turns(cfg) == 4
    check_turns(cfg, planned("cyclic", range(10), 5, cfg.seed, range(1, 9)))
    half = planned("cyclic", range(0, 10, 2), 5, cfg.seed, range(1, 9))
    assert {*half.values()} == {8}
    with pytest.raises(ValueError, match="would take 8 private turns, and the noise is for 4"):
        check_turns(cfg, half)


class Nodes(Loopback):
    """``gone`` are without a node; at message number ``stop`` the server is interrupted."""

    def __init__(self, overrides: str, gone: Sequence[int] = (), stop: int | None = None) -> None:
        super().__init__(overrides, 3)
        self.stop = stop
        self.contexts = {
            node: context
            for node, context in self.contexts.items()
            if context.node_config["partition-id"] not in gone
        }

    def trained(self) -> list[tuple[int, int]]:
        sent = [m for m in self.sent if m.metadata.message_type == "train"]
        return sorted((round_of(m), who(m)) for m in sent)

    def deliver(self, message: Message) -> Message | None:
        if message.metadata.message_type == "train" and len(self.trained()) == self.stop:
            raise InterruptedError("killed")
        return super().deliver(message)


def start(grid: Nodes, words: str) -> Experiment:
    run = Experiment(open_session(words), grid, words, setup_seconds=0.0)
    try:
        run.start()
    finally:
        run.folder._lock.close()
    return run


def written(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_with_fewer_nodes_than_its_noise_is_for_does_not_begin(tmp_path: Path) -> None:
    words = (
        f"{small.DATA} {DP} strategy=single_client rounds=3 federation.node_timeout=1 "
        f"output.dir={tmp_path} output.name=run logger=none"
    )
    grid = Nodes(words, gone=[1, 2])
    with pytest.raises(ValueError, match=r"client 0 would take 3 private turns.* for 1"):
        start(grid, words)
    assert not grid.trained()


@pytest.mark.parametrize("stop", combinations([1, 2, 5], suite=[2]))
def test_a_round_that_was_cut_off_has_been_spent(tmp_path: Path, stop: int) -> None:
    """Every client takes part in every round: none has a turn left to repeat one."""
    words = f"{FEW} output.dir={tmp_path} output.name=run logger=none"
    grid = Nodes(words, stop=stop)
    with pytest.raises(InterruptedError):
        start(grid, words)
    sizes = {
        k: len(grid_rows)
        for k, grid_rows in enumerate(map(open_session(words).documents, range(3)))
    }
    done = -(-(stop + 1) // 3)
    whole = spent(compose(FEW), sizes, dict.fromkeys(range(3), done))
    assert written(tmp_path / "run")["privacy"]["epsilon"] == whole["epsilon"]
    assert len((tmp_path / "run/turns.csv").read_text().splitlines()) == 1 + 3 * done
    again = Nodes(f"{words} resume={tmp_path}/run")
    again.disk = grid.disk
    for node, context in again.contexts.items():
        context.node_config = grid.contexts[node].node_config
        context.run_id = 2
    again.run.run_id = 2
    run = start(again, f"{words} resume={tmp_path}/run")
    assert again.trained() == [(number, k) for number in range(done + 1, 3) for k in range(3)]
    assert run.rounds_done == 2
    assert written(tmp_path / "run")["privacy"]["epsilon"] <= 3


def test_a_round_that_was_cut_off_is_repeated_where_the_noise_is_for_it(tmp_path: Path) -> None:
    words = f"{FEW} clients_per_round=1 rounds=3 output.dir={tmp_path} output.name=run logger=none"
    grid = Nodes(words, stop=1)
    with pytest.raises(InterruptedError):
        start(grid, words)
    again = Nodes(f"{words} resume={tmp_path}/run")
    for node, context in again.contexts.items():
        context.node_config = grid.contexts[node].node_config
        context.run_id = 2
    again.run.run_id = 2
    start(again, f"{words} resume={tmp_path}/run")
    assert [number for number, _ in again.trained()] == [2, 3]
    assert len((tmp_path / "run/turns.csv").read_text().splitlines()) == 1 + 4


def test_the_larger_of_both_counts_is_told(caplog) -> None:
    cfg = run_of(privacy__epsilon=3)
    own = spent(cfg, {0: 20, 1: 30}, {0: 1, 1: 2})
    assert own is not None
    same = {0: Spent(1, own["epsilon"] * (1 + 1e-6), own["delta"]), 1: Spent(1, 0.1, 1e-3)}
    assert spent(cfg, {0: 20, 1: 30}, {0: 1, 1: 2}, same) == own
    assert not caplog.text
    more = {0: Spent(9, 7.5, 0.01)}
    found = spent(cfg, {0: 20, 1: 30}, {0: 1, 1: 2}, more)
    assert found is not None
    assert (found["epsilon"], found["delta"]) == (7.5, own["delta"])
    assert "their rows have spent epsilon 7.5" in caplog.text


@pytest.fixture(scope="module")
def said() -> dict[int, Message]:
    """What three clients of FEW reply in its first round."""
    return {}


@pytest.mark.parametrize(
    "spending",
    [
        None,
        {"turns": 1, "epsilon": 1.0},
        {"turns": 0, "epsilon": 1.0, "delta": 0.1},
        {"turns": 1, "epsilon": float("nan"), "delta": 0.1},
        {"turns": 1, "epsilon": float("inf"), "delta": 0.1},
        {"turns": 1, "epsilon": -1.0, "delta": 0.1},
        {"turns": 1, "epsilon": 1.0, "delta": 1.0},
        {"turns": 1.0, "epsilon": 1.0, "delta": 0.1},
        {"turns": [1], "epsilon": [1.0], "delta": [0.1]},
    ],
)
def test_a_private_reply_says_what_was_spent_or_is_left_out(asked: Asked, said, spending) -> None:
    def tampered(reply: Message) -> Message:
        del reply.content[SPENT]
        if spending is not None:
            reply.content[SPENT] = ConfigRecord(spending)
        return reply

    asked.grid.said, asked.grid.tamper[1] = said, tampered
    replies = asked.grid.send_and_receive(asked.messages())
    asked.coded.aggregate_train(1, replies)
    assert {*asked.coded.uplink.spent} == {0, 2}

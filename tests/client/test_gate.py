"""What a node with a policy does with messages: the real ClientApp, on nodes that are real to it.

One honest round is run first; its messages, sent again or with something else in them, are what a
server that lies would send.
"""

import json
import stat
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message

from fl_app.build import _build_session, open_session
from fl_app.client.policy import VARIABLE, Policy
from fl_app.client.simulated import simulated_in_process
from fl_app.client_app import app
from fl_app.server_app import Experiment
from fl_app.wire.heads import QUESTION
from fl_app.wire.messages import BARE
from fl_app.wire.readers import PARTITION, ROUND
from tests.loopback import Loopback, RealNodes, over_the_wire
from tests.messages import frame, framed, who
from tests.real_node import MARKER, NODES, PLAIN, WORDS, Node, opened, question


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RealNodes:
    """A round on real nodes of the strict policy."""
    folder = tmp_path_factory.mktemp("honest")
    overrides = f"{WORDS} output.dir={folder}/{MARKER} output.name=run"
    grid = RealNodes(overrides, NODES)
    Experiment(open_session(overrides), grid, overrides, setup_seconds=0.0).start()
    grid.folder, grid.overrides = folder, overrides
    return grid


@pytest.fixture(scope="module")
def training(honest: RealNodes) -> Message:
    """A message that brings its frame: the first one of the run does not."""
    return framed(_sent(honest, "train"), open_session(honest.overrides))


def _sent(honest: RealNodes, kind: str) -> Message:
    return next(
        message
        for message in honest.sent
        if message.metadata.message_type == kind and who(message) == 0
    )


# ---- what is allowed ----------------------------------------------------------------------------


def test_an_honest_run_passes_the_strict_policy_and_is_that_of_a_simulation(honest) -> None:
    folder = honest.folder / MARKER
    overrides = f"{WORDS} output.dir={folder} output.name=simulated"
    Experiment(
        open_session(overrides), Loopback(overrides, NODES), overrides, setup_seconds=0.0
    ).start()
    real, simulated = (folder / name / "metrics.csv" for name in ("run", "simulated"))
    assert real.read_text() == simulated.read_text()


def test_every_message_of_an_honest_run_is_in_the_audit_log_of_its_node(honest) -> None:
    log = Path(honest.disk.name) / "audit.jsonl"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["message"] for line in lines] == [
        message.metadata.message_type for message in honest.sent
    ]
    assert {line["decision"] for line in lines} == {"accepted"}
    assert {line["policy"] for line in lines} == {"strict"}
    assert {line["run"] for line in lines} == {"1"}
    assert sorted(line["time"] for line in lines) == [line["time"] for line in lines]
    trained = {(line["client"], line["round"]) for line in lines if line["message"] == "train"}
    assert trained == {(0, 1), (1, 1), (2, 1)}


def test_the_audit_log_and_the_counts_hold_no_rows(honest: RealNodes) -> None:
    rows = open_session(WORDS).documents(0).to_list()
    said = b"".join(p.read_bytes() for p in Path(honest.disk.name).rglob("*") if p.is_file())
    words = {str(row[key]) for row in rows for key in ("document", "provider")}
    assert not [word for word in words if word.encode() in said]


def test_a_node_writes_only_where_its_operator_says(honest: RealNodes, tmp_path, training) -> None:
    node = Node(tmp_path, f"{WORDS} output.dir={tmp_path}/{MARKER}")
    with opened() as files:
        assert node.refusal(training) == ""
    assert files
    assert not [name for name in files if MARKER in name]
    assert not (tmp_path / MARKER).exists()


def test_a_node_without_a_state_dir_keeps_its_state_in_flowers_home(
    tmp_path: Path, training: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    node = Node(tmp_path, f"{WORDS} codec=thin output.dir={tmp_path}/{MARKER}")
    del node.config["state-dir"]
    node.answer(question())
    assert {path.name for path in tmp_path.iterdir()} == {"policy.yaml", "home"}
    assert (tmp_path / "home" / "thinwire" / "audit.jsonl").is_file()


# ---- what is refused, and by which rule ---------------------------------------------------------

TABLE = "data=table task=causal_lm model=llama-tiny"
SECURE = "strategy=secure_fedavg codec=modular evaluate_clients_per_round=0"
PRIVATE = "privacy=dp_sgd adapter=ffa_lora evaluate_clients_per_round=0"
REFUSED: list[tuple[str, dict, str]] = [
    ("model.path={place} model.sha256=null", {}, "model.path, by its rule models.folders"),
    ("model.path=org/x model.sha256=null", {}, "model.path, by its rule models.hub"),
    ("model.path=embedded:../../x", {}, "model.path, by its rule models"),
    ("model.tokenizer={place}", {}, "model.tokenizer, by its rule models.folders"),
    ("model.visual_path={place}", {}, "model.visual_path, by its rule models.folders"),
    (
        "model.path={place}/../x model.sha256=null",
        {"models": {"folders": ["/"]}},
        "model.path, by its rule models.folders",
    ),
    (f"{TABLE} data.train.path={{place}}", {}, "data.train.path, by its rule rows.folders"),
    (f"{TABLE} data.test.path={{place}}", {}, "data.test.path, by its rule rows.folders"),
    (f"{TABLE} data.train.path=org/x", {}, "data.train.path, by its rule rows.hub"),
    (
        f"{TABLE} data.train.path={{place}}",
        {"models": {"folders": ["/"]}},
        "data.train.path, by its rule rows.folders",
    ),
    ("data=pfl_docvqa data.path={place}", {}, "data.path, by its rule rows.folders"),
    ("", {"run": {"tasks": ["causal_lm"]}}, "task.id, by its rule run.tasks"),
    ("", {"run": {"adapters": ["full"]}}, "adapter.id, by its rule run.adapters"),
    ("", {"run": {"codecs": ["fp16"]}}, "codec.up, by its rule run.codecs"),
    (
        "codec=top_k",
        {"run": {"codecs": ["chain", "delta", "entropy", "nf4", "top_k"]}},
        "codec.up, by its rule run.codecs",  # error_feedback, within others
    ),
    (
        "strategy=krum",
        {"run": {"refused_strategies": ["Krum"]}},
        "strategy.inner, by its rule run.refused_strategies",
    ),
    ("rounds=4", {"run": {"rounds": 3}}, "rounds, by its rule run.rounds: at most 3"),
    (
        "local_epochs=2",
        {"run": {"local_epochs": 1}},
        "local_epochs, by its rule run.local_epochs: at most 1",
    ),
    (
        "turns=[{{local_epochs:1}},{{local_epochs:2}}]",
        {"run": {"local_epochs": 1}},
        "local_epochs, by its rule run.local_epochs: at most 1",
    ),
    (
        "adapter=lora_sb adapter.init=client_mean adapter.init_samples=1",
        {},
        "adapter.init_samples, by its rule rows.least: at least 4",
    ),
    (
        "",
        {"privacy": {"required": "dp_sgd"}},
        "privacy.id, by its rule privacy.required: dp_sgd",
    ),
    ("", {"privacy": {"epsilon": 3}}, "privacy.id, by its rule privacy.epsilon: dp_sgd"),
    (
        "strategy=fedavg_dp_server",
        {"privacy": {"epsilon": 3}},
        "privacy.id, by its rule privacy.epsilon: dp_sgd",
    ),
    (f"{PRIVATE} privacy.noise=seeded", {}, "privacy.noise, by its rule privacy.noise: secret"),
    (
        "strategy=fedavg_dp_server strategy.inner.seed=3",
        {},
        "strategy.inner.seed, by its rule privacy.noise: secret",
    ),
    (
        f"{PRIVATE} privacy.epsilon=3.1",
        {"privacy": {"epsilon": 3}},
        "privacy.epsilon, by its rule privacy.epsilon: at most 3",
    ),
    (
        f"{PRIVATE} privacy.epsilon=null privacy.noise_multiplier=1",
        {"privacy": {"epsilon": 3}},
        "privacy.epsilon, by its rule privacy.epsilon: at most 3",
    ),
    (
        "",
        {"secure_sum": {"required": True}},
        "strategy, by its rule secure_sum.required: secure_fedavg",
    ),
    (
        SECURE,
        {"secure_sum": {"least": 4}},
        "clients_per_round or strategy.secure_aggregation.neighbours, by its rule "
        "secure_sum.least: at least 4 clients",
    ),
]
KINDS = ("query", "query.signs", "query.patch", "query.secure_keys", "query.secure_shares",
         "query.secure_reveal", "train", "evaluate")  # fmt: skip


def test_all_kinds_of_message_are_tried() -> None:
    assert {kind if "." in kind else f"{kind}.default" for kind in KINDS} == {
        *app._registered_funcs
    }


@pytest.mark.parametrize(("overrides", "policy", "says"), REFUSED)
def test_a_refused_run_builds_and_reads_nothing_whatever_the_message(
    overrides: str, policy: dict, says: str, tmp_path: Path
) -> None:
    place = tmp_path / MARKER
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "rows.jsonl").write_text('{"instruction": "x", "output": "y"}')
    base = PLAIN if overrides.startswith("data=") else WORDS
    node = Node(tmp_path, f"{base} {overrides.format(place=place)}", **policy)
    built = _build_session.cache_info().misses
    with opened() as files:
        for kind in KINDS:
            assert node.refusal(question(kind, partition=0)) == (
                f"policy: the node's policy forbids {says}"
            )
    assert _build_session.cache_info().misses == built
    assert not [name for name in files if MARKER in name]
    lines = node.audit()
    assert [(line["message"], line["decision"]) for line in lines] == [
        (kind, "refused") for kind in KINDS
    ]
    rule = says.partition("rule ")[2].partition(":")[0]
    assert {line["rule"] for line in lines} == {rule}
    assert all(line["policy"] for line in lines)  # by which of its policies a node refused


@pytest.mark.parametrize(
    ("overrides", "policy"),
    [
        (f"{PRIVATE} privacy.epsilon=3", {"privacy": {"epsilon": 3}}),
        (f"{PRIVATE} privacy.noise=seeded", {"privacy": {"noise": "any"}}),
        ("strategy=fedavg_dp_server", {}),
        ("model.path={place} model.sha256=null", {"models": {"folders": ["{place}"]}}),
        ("codec=thin", {"run": {"codecs": ["entropy", "chain", "delta", "uniform"]}}),
    ],
)
def test_what_the_operator_allows_is_not_refused(overrides, policy, tmp_path: Path) -> None:
    place = str(tmp_path)
    if "models" in policy:
        policy = {"models": {"folders": [place]}}
    node = Node(tmp_path, f"{WORDS} {overrides.format(place=place)}", **policy)
    assert "policy" not in node.refusal(question("query.secure_reveal", survivors=[0, 1, 2]))


def test_the_nodes_own_rows_cannot_be_taken_in_parts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "x", "output": "y"}\n' * 9)
    base = f"{PLAIN} {TABLE} data.train.path=null data.test.path=/only/on/the/server.jsonl"
    for more, key in (
        ("data.train.limit=5", "limit"),
        ("\"data.train.split='train[2:7]'\"", "split"),
        ("data.train.split=train+train", "split"),
        ("+data.train.drop.output=[y]", "drop"),
    ):
        node = Node(tmp_path, f"{base} {more}")
        node.config["data-path"] = str(rows)
        assert node.refusal(question()) == (
            f"policy: the node's policy forbids data.train.{key}, by its rule rows.part"
        )
    node = Node(tmp_path, f"{base} data.train.limit=5", rows={"part": True})
    node.config["data-path"] = str(rows)
    assert node.refusal(question()) == ""


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"least": 5}, "by its rule rows.least: at least 5 rows"),
        ({"most": 3}, "by its rule rows.most: at most 3 rows"),
        ({"least": 4, "most": 4}, ""),
    ],
)
def test_rows_are_counted_before_they_are_trained_on(rows, says, tmp_path, training) -> None:
    node = Node(tmp_path, rows=rows)
    refusal = node.refusal(training)
    assert refusal == (says and f"policy: the node's policy forbids what this node holds, {says}")
    decisions = [line["decision"] for line in node.audit()]
    assert decisions == (["accepted", "refused"] if says else ["accepted"])


def test_a_sum_of_fewer_clients_than_the_operator_allows_is_not_revealed(tmp_path: Path) -> None:
    node = Node(tmp_path, f"{WORDS} {SECURE}")
    few = question("query.secure_reveal", partition=0, survivors=[0, 1, 1], dropped=[2])
    assert node.refusal(few) == (
        "policy: the node's policy forbids the sum of these clients, by its rule "
        "secure_sum.least: at least 3 clients"
    )


# ---- limits that hold over a whole run ----------------------------------------------------------


def test_turns_are_counted_by_message_whatever_round_it_names_and_after_a_restart(
    honest: RealNodes, training: Message, tmp_path: Path
) -> None:
    node = Node(tmp_path, run={"turns": 3})
    evaluation = _sent(honest, "evaluate")
    again = over_the_wire(training)
    again.content[BARE] = ConfigRecord({BARE: QUESTION.write({ROUND: 2**62, PARTITION: 0})})
    for message in (training, evaluation, again):
        assert not node.refusal(message).startswith("policy")  # the last is refused for its round
    for message in (training, evaluation, again):
        assert node.refusal(message) == (
            "policy: the node's policy forbids more turns of this run, by its rule run.turns: "
            "at most 3"
        )
    assert (
        node.refusal(question()) == "policy: the node's policy forbids more turns of this run"
        ", by its rule run.turns: at most 3"
    )
    assert node.refusal(training, run=8) == ""  # another run has its own


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_turn_is_one_under_either_name_that_flower_has_for_it(
    kind: str, honest: RealNodes, tmp_path: Path
) -> None:
    node = Node(tmp_path, run={"turns": 1})
    sent = _sent(honest, kind)
    long = question(f"{kind}.default")
    long.content, long.metadata.group_id = sent.content, sent.metadata.group_id
    assert node.refusal(long) == ""
    for message in (long, sent):
        assert "by its rule run.turns" in node.refusal(message)


def test_bytes_are_those_received_and_sent(training: Message, tmp_path: Path) -> None:
    free = Node(tmp_path / "free")
    assert free.refusal(training) == ""
    (counts,) = (free.state / "7").glob("counts-0.json")
    assert stat.S_IMODE(counts.stat().st_mode) == 0o600
    used = json.loads(counts.read_text())["bytes"]
    assert used > 2 * len(frame(training))
    says = "policy: the node's policy forbids more bytes of this run, by its rule run.bytes"
    tight = Node(tmp_path / "tight", run={"bytes": used - 1})
    assert tight.refusal(training) == f"{says}: at most {used - 1}"  # the reply is not sent
    assert [line["decision"] for line in tight.audit()] == ["accepted", "refused"]
    exact = Node(tmp_path / "exact", run={"bytes": used})
    assert [exact.refusal(training), exact.refusal(training)] == ["", f"{says}: at most {used}"]


def test_where_nothing_can_be_written_nothing_is_done(training: Message, tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.state.write_text("")  # no folder
    built = _build_session.cache_info()
    assert node.refusal(training).startswith("disk: ")
    node.state.unlink()
    node.state.mkdir()
    (node.state / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    assert node.refusal(training).startswith("disk: ")
    assert not (tmp_path / "elsewhere").exists()
    assert _build_session.cache_info() == built


# ---- the log, the file, simulations -------------------------------------------------------------


def test_a_line_of_the_log_stays_one_line_of_bounded_length(tmp_path: Path) -> None:
    node = Node(tmp_path, f"{WORDS} model.path=/x\x1b[31m\n{'y' * 10**5}")
    for _ in range(2):
        assert node.refusal(question("evaluate", partition=0))
    raw = (node.state / "audit.jsonl").read_bytes()
    assert raw.count(b"\n") == 2
    assert len(raw) < 10_000
    assert b"\x1b" not in raw
    first, second = node.audit()
    assert first["overrides_sha256"] == second["overrides_sha256"]
    assert first["overrides"] == node.overrides[:2000]


def test_overrides_that_are_no_configuration_are_refused_and_logged(tmp_path: Path) -> None:
    node = Node(tmp_path, "no.such.key=1")
    assert node.refusal(question()).startswith("configuration: ")
    assert [line["decision"] for line in node.audit()] == ["refused"]


def test_a_policy_that_cannot_be_read_refuses_everything_and_names_no_path(tmp_path: Path) -> None:
    node = Node(tmp_path)
    Path(str(node.config["policy"])).write_text("run: {round: 3}")
    for kind in KINDS:
        reason = node.refusal(question(kind, partition=0))
        assert reason == "policy_file: the node's policy cannot be read; ask the node's operator"
    assert {line["error"] for line in node.audit()} == {"PolicyError"}


def test_a_simulation_has_the_policy_that_its_owner_gives_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, f"{WORDS} rounds=2", run={"rounds": 1})
    with simulated_in_process():
        assert node.refusal(question()) == ""
        assert not node.state.exists()
        monkeypatch.setenv(VARIABLE, str(node.config["policy"]))
        assert "by its rule run.rounds: at most 1" in node.refusal(question())
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))  # says nothing to a real node
    assert "by its rule run.rounds: at most 1" in node.refusal(question())


def test_a_node_without_a_policy_has_the_strict_one(tmp_path: Path) -> None:
    node = Node(tmp_path, f"{WORDS} rounds={(Policy().run.rounds or 0) + 1}", run={"rounds": None})
    assert node.refusal(question()) == ""
    del node.config["policy"]
    assert "by its rule run.rounds: at most 1000" in node.refusal(question())

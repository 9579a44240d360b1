"""Secure aggregation as a protocol: what comes out, who may drop out, and what nobody is told."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_app.codecs.modular import Ring
from fl_app.codecs.streams import words
from fl_app.secure_aggregation import primitives
from fl_app.secure_aggregation.client import KEYS, REVEAL, SHARES
from fl_app.secure_aggregation.member import Member, ProtocolError
from fl_app.secure_aggregation.settings import Settings
from strategies.secure_sum import SecureSum, SecureSumError, neighbourhoods

COUNT = 40


class Clients:
    """Clients that answer a server, until they drop out after a number of stages."""

    def __init__(self, threshold: int, gone_after: dict[int, int] | None = None) -> None:
        self.threshold = threshold
        self.gone_after = gone_after or {}
        self.members: dict[int, Member] = {}
        self.asked: list[tuple[str, dict[int, ConfigRecord]]] = []
        self.tamper: Callable[[str, int, ConfigRecord], ConfigRecord] = lambda s, k, record: record

    def ask(self, stage: str, questions: dict[int, ConfigRecord]) -> dict[int, ConfigRecord]:
        self.asked.append((stage, questions))
        number = {KEYS: 0, SHARES: 1, REVEAL: 3}[stage]
        alive = [k for k in questions if self.gone_after.get(k, 9) > number]
        answers = {k: getattr(self, stage)(k, questions[k]) for k in alive}
        return {k: self.tamper(stage, k, record) for k, record in answers.items()}

    def secure_keys(self, client: int, question: ConfigRecord) -> ConfigRecord:
        self.members[client] = Member(client, server_round=5)
        mask, share = self.members[client].publics()
        return ConfigRecord({"mask-public": mask, "share-public": share})

    def secure_shares(self, client: int, question: ConfigRecord) -> ConfigRecord:
        sealed = self.members[client].share(
            question["members"], question["mask-publics"], question["share-publics"],
            self.threshold,
        )  # fmt: skip
        self.members[client] = Member.read(self.members[client].record())  # as in a node's state
        return ConfigRecord({"sealed": list(sealed.values())})

    def vector(self, server: SecureSum, client: int, values: np.ndarray) -> np.ndarray:
        member = Member.read(self.members[client].record())
        member.hold(server.sealed_for(client), self.threshold)
        masked = values.copy()
        member.mask(masked)
        self.members[client] = member
        return masked

    def secure_reveal(self, client: int, question: ConfigRecord) -> ConfigRecord:
        seeds, keys = self.members[client].reveal(
            question["survivors"], question["dropped"], self.threshold
        )
        return ConfigRecord({"seed-shares": seeds, "key-shares": keys})


def federation(count: int, neighbours: int, threshold: int, ring: Ring, gone=None, seed: int = 0):
    clients = Clients(threshold, gone)
    server = SecureSum(clients.ask, 5, Settings(neighbours, threshold), ring, COUNT)
    return clients, server, server.set_up([3 * k + 1 for k in range(count)], seed)


def train(clients: Clients, server: SecureSum, cohort: list[int], values: dict) -> None:
    for client in cohort:
        if clients.gone_after.get(client, 9) > 2:
            server.add(client, clients.vector(server, client, values[client]))


@st.composite
def rounds(draw):
    count = draw(st.integers(3, 9))
    neighbours = draw(st.sampled_from([n for n in (2, 4, 6, 8) if n < count] + [count - 1]))
    threshold = draw(st.integers((neighbours + 1) // 2 + 1, neighbours + 1))
    ring = draw(st.sampled_from([Ring.of(2, 9, 1), Ring.of(16, 9, 1), Ring.of(24, 9, 5000)]))
    stages = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    gone = {3 * k + 1: stage for k, stage in enumerate(stages) if stage <= 3}
    return count, neighbours, threshold, ring, gone, draw(st.integers(0, 2**32))


@given(rounds())
@settings(max_examples=80, deadline=None)
def test_the_sum_is_exact_or_nothing_is_revealed(drawn) -> None:
    """For any set of clients that drop out, at any stage: bit for bit, or one clear error."""
    count, neighbours, threshold, ring, gone, seed = drawn
    rng = np.random.default_rng(seed)
    kind = words.dtype(ring.bits)
    values = {
        3 * k + 1: rng.integers(0, int(ring.mask), COUNT, np.uint64, endpoint=True).astype(kind)
        for k in range(count)
    }
    groups = neighbourhoods(sorted(values), neighbours, seed, 5)

    def left(stage: int) -> set[int]:
        return {k for k in values if gone.get(k, 9) > stage}

    enough = bool(left(3)) and all(
        len(left(stage) & {*groups[client]}) >= threshold
        for stage in range(4)
        for client in left(min(stage, 1))  # whose vector, or whose masks, are in the sum
    )
    event(f"{len(left(2))} of {count}" if enough else "too few")
    outcome = contextlib.nullcontext() if enough else pytest.raises(SecureSumError, match="nothing")
    with outcome:
        clients, server, cohort = federation(count, neighbours, threshold, ring, gone, seed)
        train(clients, server, cohort, values)
        total = server.reveal()
    if not enough:
        return
    assert server.survivors == sorted(left(2))
    expected = np.sum([values[k] for k in left(2)], axis=0, dtype=kind) & ring.mask
    assert (total == expected).all()
    for stage, questions in clients.asked:
        if stage == REVEAL:
            for question in questions.values():
                assert not {*question["survivors"]} & {*question["dropped"]}


@pytest.mark.parametrize("ring", [Ring.of(4, 3, 1), Ring.of(16, 4, 1), Ring.of(20, 9, 999)])
def test_a_masked_vector_looks_uniform_whatever_is_in_it(ring: Ring) -> None:
    """Chi-square of its words' upper and lower bits, and of its difference to a second one."""
    n = 200_000
    kind = words.dtype(ring.bits)
    clients, server, cohort = federation(4, 3, 3, ring)
    zeros = np.zeros(n, kind)
    vectors = [clients.vector(server, k, zeros) & ring.mask for k in cohort]
    for vector in [*vectors, (vectors[0] - vectors[1]) & ring.mask]:
        for shift in (0, ring.bits - 4):
            found = np.bincount((vector >> kind(shift)).astype(np.int64) & 15, minlength=16)
            assert stats.chisquare(found).pvalue > 1e-6
        ones = np.unpackbits(np.frombuffer(words.pack(vector, ring.bits), np.uint8))
        assert abs(ones.mean() - 0.5) < 6 * 0.5 / np.sqrt(ones.size)
    assert not (sum(vectors[1:], vectors[0]) & ring.mask == 0).all()  # each has a mask of its own


def test_two_rounds_have_nothing_in_common() -> None:
    ring, values = Ring.of(16, 4, 1), np.zeros(COUNT, np.uint32)
    seen, sent = [], []
    for _ in range(2):
        clients, server, cohort = federation(4, 3, 3, ring)
        for member in clients.members.values():
            sent += [member.mask_key, member.share_key, member.seed, *member.publics()]
        sent += [text for k in cohort for text in server.sealed_for(k).values()]
        seen += [clients.vector(server, k, values).tobytes() for k in cohort]
    assert len({*seen}) == 8
    assert len({*sent}) == len(sent) == 2 * (4 * 5 + 4 * 3)


def test_shares_below_the_threshold_tell_nothing_of_a_secret() -> None:
    secret = primitives.new_key()
    shares = primitives.split(secret, 3, 5)
    assert primitives.join(shares[1:4]) == secret
    for few in (shares[:2], shares[3:]):
        with contextlib.suppress(ValueError):
            assert primitives.join(few) != secret


# ---- what a client does not do, whoever asks ------------------------------------------------


@pytest.fixture(name="member")
def _member() -> Member:
    """One of four, after training."""
    clients, server, cohort = federation(4, 3, 3, Ring.of(16, 4, 1))
    for client in cohort:
        clients.vector(server, client, np.zeros(COUNT, np.uint32))
    return clients.members[1]


@pytest.mark.parametrize(
    ("survivors", "dropped", "says"),
    [
        ([1, 4, 7], [7, 10], r"both secrets of clients \[7\]"),
        ([1, 4], [7, 10], "2 survivors"),
        ([1, 1, 1, 4], [7], "2 survivors"),
        ([4, 7, 10], [1], "has survived"),
        ([4, 7, 10], [], "has survived"),
        ([1, 4, 13], [7], "holds shares"),
    ],
)
def test_a_client_reveals_nothing_that_would_unmask_one(member, survivors, dropped, says) -> None:
    with pytest.raises(ProtocolError, match=says):
        member.reveal(survivors, dropped, threshold=3)


def test_a_client_masks_one_vector_with_its_masks(member: Member) -> None:
    with pytest.raises(ProtocolError, match="'masked'"):
        member.mask(np.zeros(COUNT, np.uint32))
    with pytest.raises(ProtocolError, match="'masked'"):
        member.hold({}, threshold=1)
    fresh = Member(1, 6)
    for stage in (lambda: fresh.mask(np.zeros(1, np.uint32)), lambda: fresh.reveal([1], [], 1)):
        with pytest.raises(ProtocolError, match="'keys'"):
            stage()


def test_a_client_shares_with_its_group_alone() -> None:
    def publics(*members: Member) -> tuple[list[bytes], list[bytes]]:
        masks, shares = zip(*(member.publics() for member in members), strict=True)
        return list(masks), list(shares)

    one, two, three = (Member(k, 1) for k in (1, 2, 3))
    masks, shares = publics(one, two, three)
    for members, asked, says in (
        ([1, 2], publics(one, two), "a group of 2"),
        ([2, 3, 4], (masks, shares), "no group of client 1"),
        ([1, 3, 2], (masks, shares), "no group"),
        ([1, 2, 3], publics(one, two, two), "the same key"),
        ([1, 2, 3], publics(Member(1, 1), two, three), "not what this client has sent"),
        ([1, 2, 3], (masks, masks), "the same key"),
        ([1, 2, 3], (masks[:2], shares), "one pair"),
    ):
        with pytest.raises(ProtocolError, match=says):
            one.share(members, *asked, threshold=3)
    sealed = {k: m.share([1, 2, 3], masks, shares, 3) for k, m in ((1, one), (2, two), (3, three))}
    with pytest.raises(ProtocolError, match="'shares'"):
        one.share([1, 2, 3], masks, shares, threshold=3)
    with pytest.raises(ProtocolError, match="shares of 2 members"):
        one.hold({2: sealed[2][1]}, threshold=3)
    with pytest.raises(ProtocolError, match="the group is"):
        one.hold({2: sealed[2][1], 4: sealed[3][1]}, threshold=3)
    for wrong in (sealed[3][1], sealed[2][3], sealed[2][1][:-1] + b"\0", b""):
        with pytest.raises(ValueError, match=r"another client|Nonce"):
            one.hold({2: wrong, 3: sealed[3][1]}, threshold=3)


# ---- clients that do not keep to it ---------------------------------------------------------


def test_what_clients_leave_out_counts_as_dropping_out() -> None:
    ring, values = Ring.of(16, 5, 1), {k: np.full(COUNT, k, np.uint32) for k in (1, 4, 7, 10, 13)}
    lies = {
        KEYS: {"mask-public": "none"},
        SHARES: {"sealed": [b""]},
        REVEAL: {"key-shares": [1, 2]},
    }
    for stage, lie in lies.items():
        clients = Clients(4)
        clients.tamper = lambda s, k, record, stage=stage, lie=lie: (
            ConfigRecord({**record, **lie}) if (s, k) == (stage, 7) else record
        )
        server = SecureSum(clients.ask, 5, Settings(4, 4), ring, COUNT)
        cohort = server.set_up(sorted(values), 0)
        assert cohort == ([1, 4, 7, 10, 13] if stage == REVEAL else [1, 4, 10, 13])
        if stage == REVEAL:
            clients.gone_after[4] = 2
            with pytest.raises(SecureSumError, match="revealed their shares"):
                run(clients, server, cohort, values)
        else:
            assert (run(clients, server, cohort, values) == 1 + 4 + 10 + 13).all()


def run(clients, server, cohort, values):
    train(clients, server, cohort, values)
    return server.reveal()


@pytest.mark.parametrize("wrong", [bytes(52), b"short", b"\1\0\0\0" + bytes(range(48))])
def test_a_wrong_share_of_a_key_is_found(wrong: bytes) -> None:
    clients, server, cohort = federation(4, 3, 3, Ring.of(16, 4, 1), gone={10: 2})
    values = {k: np.zeros(COUNT, np.uint32) for k in cohort}
    clients.tamper = lambda stage, k, record: (
        ConfigRecord({**record, "key-shares": [wrong]}) if (stage, k) == (REVEAL, 4) else record
    )
    with pytest.raises(SecureSumError, match="client 10"):
        run(clients, server, cohort, values)


def test_a_vector_is_added_once() -> None:
    _, server, _ = federation(4, 3, 3, Ring.of(16, 4, 1))
    server.add(1, np.zeros(COUNT, np.uint32))
    for client in (1, 2):
        with pytest.raises(SecureSumError, match="no vector"):
            server.add(client, np.zeros(COUNT, np.uint32))


@given(st.integers(3, 40), st.integers(1, 8), st.integers(0, 2**32))
def test_every_client_has_as_many_neighbours_and_both_know_it(count, half, seed) -> None:
    clients = list(range(100, 100 + count))
    groups = neighbourhoods(clients, 2 * half, seed, 1)
    for client, group in groups.items():
        assert group == sorted({*group})
        assert client in group
        assert len(group) == min(2 * half + 1, count)
        assert all(client in groups[member] for member in group)
    reached, new = {100}, {100}
    while new:
        new = {member for k in new for member in groups[k]} - reached
        reached |= new
    assert reached == {*clients}

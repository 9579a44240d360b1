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
from fl_app.secure_aggregation.member import Member, ProtocolError
from fl_app.secure_aggregation.settings import LEAST_CLIENTS, Settings, least_threshold
from fl_app.secure_aggregation.sum import SecureSum, SecureSumError, components, neighbourhoods
from fl_app.wire.messages import SECURE_KEYS, SECURE_REVEAL, SECURE_SHARES

COUNT = 40


class Clients:
    """Clients that answer a server, until they drop out after a number of stages."""

    def __init__(self, settings: Settings, gone_after: dict[int, int] | None = None) -> None:
        self.settings = settings
        self.gone_after = gone_after or {}
        self.members: dict[int, Member] = {}
        self.asked: list[tuple[str, dict[int, ConfigRecord]]] = []
        self.tamper: Callable[[str, int, ConfigRecord], ConfigRecord] = lambda s, k, record: record

    def ask(self, stage: str, questions: dict[int, ConfigRecord]) -> dict[int, ConfigRecord]:
        self.asked.append((stage, questions))
        number = {SECURE_KEYS: 0, SECURE_SHARES: 1, SECURE_REVEAL: 3}[stage]
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
            self.settings,
        )  # fmt: skip
        self.members[client] = Member.read(self.members[client].record())  # as in a node's state
        return ConfigRecord({"sealed": list(sealed.values())})

    def vector(self, server: SecureSum, client: int, values: np.ndarray) -> np.ndarray:
        member = Member.read(self.members[client].record())
        member.hold(server.sealed_for(client), self.settings)
        masked = values.copy()
        member.mask(masked)
        self.members[client] = member
        return masked

    def secure_reveal(self, client: int, question: ConfigRecord) -> ConfigRecord:
        seeds, keys = self.members[client].reveal(
            question["survivors"], question["dropped"], self.settings
        )
        return ConfigRecord({"seed-shares": seeds, "key-shares": keys})


def federation(count: int, neighbours: int, threshold: int, ring: Ring, gone=None, seed: int = 0):
    asked = Settings(neighbours, threshold, 3 * count)
    clients = Clients(asked, gone)
    server = SecureSum(clients.ask, 5, asked, ring, COUNT)
    return clients, server, server.set_up([3 * k + 1 for k in range(count)], seed)


def train(clients: Clients, server: SecureSum, cohort: list[int], values: dict) -> None:
    for client in cohort:
        if clients.gone_after.get(client, 9) > 2:
            server.add(client, clients.vector(server, client, values[client]))


@st.composite
def rounds(draw):
    count = draw(st.integers(3, 9))
    neighbours = draw(st.sampled_from([n for n in (2, 4, 6, 8) if n < count] + [count - 1]))
    threshold = draw(st.integers(least_threshold(neighbours + 1), neighbours + 1))
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
        if stage == SECURE_REVEAL:
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
        ([1, 1, 1, 4], [7], "holds shares"),
        ([1, 4, 7], [], "holds shares"),
        ([4, 7, 10], [1], "has survived"),
        ([4, 7, 10], [], "has survived"),
        ([1, 4, 13], [7], "holds shares"),
    ],
)
def test_a_client_reveals_nothing_that_would_unmask_one(member, survivors, dropped, says) -> None:
    with pytest.raises(ProtocolError, match=says):
        member.reveal(survivors, dropped, Settings(3, 3, 12))


def test_a_client_masks_one_vector_with_its_masks(member: Member) -> None:
    with pytest.raises(ProtocolError, match="'masked'"):
        member.mask(np.zeros(COUNT, np.uint32))
    with pytest.raises(ProtocolError, match="'masked'"):
        member.hold({}, Settings(3, 3, 12))
    fresh = Member(1, 6)
    for stage in (
        lambda: fresh.mask(np.zeros(1, np.uint32)),
        lambda: fresh.reveal([1], [], Settings(3, 3, 12)),
    ):
        with pytest.raises(ProtocolError, match="'keys'"):
            stage()


def test_a_client_shares_with_its_group_alone() -> None:
    def publics(*members: Member) -> tuple[list[bytes], list[bytes]]:
        masks, shares = zip(*(member.publics() for member in members), strict=True)
        return list(masks), list(shares)

    one, two, three, four = (Member(k, 1) for k in (1, 2, 3, 4))
    masks, shares = publics(one, two, three)
    asked = Settings(2, 3, 5)
    for members, keys, says in (
        ([1, 2], publics(one, two), "a group of 2"),
        ([2, 3, 4], (masks, shares), "no group of client 1"),
        ([1, 3, 2], (masks, shares), "no group"),
        ([1, 2, 3], publics(one, two, two), "the same key"),
        ([1, 2, 3], publics(Member(1, 1), two, three), "not what this client has sent"),
        ([1, 2, 3], (masks, masks), "the same key"),
        ([1, 2, 3], (masks[:2], shares), "one pair"),
        ([1, 2, 3], (masks, [*shares[:2], "key"]), "one pair"),
        ([1, 2, 3, 4], publics(one, two, three, four), "a group of 4, where .* has 3"),
        ([1, 2, 9], publics(one, two, Member(9, 1)), "none of 5 clients"),
        ([1, 2, 3.0], (masks, shares), "none of 5 clients"),
    ):
        with pytest.raises(ProtocolError, match=says):
            one.share(members, *keys, asked)
    members = {1: one, 2: two, 3: three}
    sealed = {k: m.share([1, 2, 3], masks, shares, asked) for k, m in members.items()}
    with pytest.raises(ProtocolError, match="'shares'"):
        one.share([1, 2, 3], masks, shares, asked)
    with pytest.raises(ProtocolError, match="shares of 2 members"):
        one.hold({2: sealed[2][1]}, asked)
    with pytest.raises(ProtocolError, match="the group is"):
        one.hold({2: sealed[2][1], 4: sealed[3][1]}, asked)
    for wrong in (
        sealed[3][1],
        sealed[2][3],
        sealed[2][1][:-1] + bytes([sealed[2][1][-1] ^ 1]),
        b"",
    ):
        with pytest.raises(ProtocolError, match=r"another client|Nonce"):
            one.hold({2: wrong, 3: sealed[3][1]}, asked)


# ---- a server that lies about who is where --------------------------------------------------


class Liar:
    """A server that hands out whatever groups it likes, and collects what clients reveal."""

    def __init__(self, count: int, settings: Settings) -> None:
        self.settings = settings
        self.members = {k: Member(k, 1) for k in range(count)}
        self.dealt: dict[int, dict[int, bytes]] = {}
        self.seeds: dict[int, set[bytes]] = {k: set() for k in self.members}
        self.keys: dict[int, set[bytes]] = {k: set() for k in self.members}

    def share(self, client: int, group: list[int]) -> None:
        publics = [self.members[k].publics() for k in group]
        masks, shares = zip(*publics, strict=True)
        self.dealt[client] = self.members[client].share(group, masks, shares, self.settings)

    def train(self, client: int) -> None:
        """With all the shares that were dealt to the client by those of its group."""
        member = self.members[client]
        others = [k for k in member.members if k != client and client in self.dealt.get(k, {})]
        member.hold({k: self.dealt[k][client] for k in others}, self.settings)
        member.mask(np.zeros(1, np.uint32))

    def reveal(self, client: int, dropped: set[int]) -> None:
        member = self.members[client]
        gone = [k for k in member.holders if k in dropped and k != client]
        alive = [k for k in member.holders if k not in gone]
        seeds, keys = member.reveal(alive, gone, self.settings)
        for owners, shares, found in ((alive, seeds, self.seeds), (gone, keys, self.keys)):
            for owner, share in zip(owners, shares, strict=True):
                found[owner].add(share)

    def unmasked(self) -> list[int]:
        """Return the clients of which it has both secrets."""
        least = self.settings.threshold
        return [
            k for k in self.members if len(self.seeds[k]) >= least and len(self.keys[k]) >= least
        ]


def test_a_server_that_makes_everyone_a_neighbour_of_everyone_reads_nobody() -> None:
    """Ten keys for groups of five: half of the ten give the seed, half of them the key."""
    liar, everyone = Liar(10, Settings(4, 4, 10)), list(range(10))
    for client in everyone:
        with pytest.raises(ProtocolError, match="a group of 10, where the configuration has 5"):
            liar.share(client, everyone)
    assert not liar.dealt


@st.composite
def lies(draw):
    neighbours = draw(st.sampled_from([2, 4, 5, 6]))
    count = draw(st.integers(neighbours + 1, 10))
    threshold = draw(st.integers(least_threshold(neighbours + 1), neighbours + 1))
    return count, Settings(neighbours, threshold, count), draw(st.randoms(use_true_random=False))


@given(lies())
def test_no_lists_give_both_secrets_of_a_client(drawn) -> None:
    """Other groups, and other survivors, for every client: it refuses, or one secret stays."""
    count, asked, random = drawn
    liar = Liar(count, asked)
    for stage in ("share", "train", "reveal"):
        for client in random.sample(range(count), count):
            size = random.randint(1, count)
            told = sorted({client, *random.sample(range(count), size)})
            if stage == "share" and random.random() < 0.8:  # else nearly all are refused
                others = [k for k in range(count) if k != client]
                told = sorted([client, *random.sample(others, asked.neighbours)])
            with contextlib.suppress(ProtocolError):
                if stage == "reveal":
                    spare = max(0, len(liar.members[client].holders) - asked.threshold)
                    liar.reveal(client, {*random.sample(range(count), min(spare, count))})
                else:
                    liar.share(client, told) if stage == "share" else liar.train(client)
    event("some secret" if any(map(len, liar.seeds.values())) else "no secret")
    assert not liar.unmasked()
    for client, member in liar.members.items():
        assert len(member.members) <= asked.group < 2 * asked.threshold
        assert len(liar.seeds[client]) + len(liar.keys[client]) <= asked.group


@pytest.mark.parametrize(
    ("group", "least"), [(3, 3), (4, 3), (5, 3), (6, 4), (7, 4), (10, 6), (101, 51)]
)
def test_a_threshold_is_at_least_three_and_above_half(group: int, least: int) -> None:
    assert least_threshold(group) == least
    for threshold in (0, 2, least - 1, group + 1):
        with pytest.raises(ValueError, match=f"should be in {least}..{group}"):
            Settings(group - 1, threshold, 200)
    Settings(group - 1, least, 200)


@given(st.integers(3, 12), st.sampled_from([2, 4, 6]), st.sets(st.integers(0, 11)), st.data())
def test_a_group_that_has_three_left_is_in_a_component_that_has(count, neighbours, gone, data):
    """Whoever drops out: the parts that masks hold together have no fewer than the threshold."""
    if neighbours >= count:
        return
    threshold = data.draw(st.integers(least_threshold(neighbours + 1), neighbours + 1))
    groups = neighbourhoods(list(range(count)), neighbours, data.draw(st.integers(0, 99)), 1)
    alive = {*range(count)} - gone
    parts = components(groups, alive)
    assert sorted(k for part in parts for k in part) == sorted(alive)
    if all(len({*groups[client]} & alive) >= threshold for client in alive):
        assert all(len(part) >= threshold >= LEAST_CLIENTS for part in parts)


def test_a_survivors_graph_that_falls_apart_is_given_up_at_any_threshold() -> None:
    """Neighbours on a circle of ten: when two are gone, two others stand alone between them."""
    values = {3 * k + 1: np.full(COUNT, k, np.uint32) for k in range(10)}
    circle = neighbourhoods(sorted(values), 2, 0, 5)
    first = min(values)
    one, _ = (k for k in circle[first] if k != first)
    pair = {first, one}
    gone = dict.fromkeys({k for client in pair for k in circle[client]} - pair, 2)
    with pytest.raises(SecureSumError, match="nothing is revealed"):
        run(*federation(10, 2, 3, Ring.of(16, 10, 1), gone), values)
    clients, server, cohort = federation(10, 2, 3, Ring.of(16, 10, 1), gone)
    server._check_left = lambda *_: None  # what the clients' threshold stops is stopped again
    with pytest.raises(SecureSumError, match=r"parts of \[2, 6\]"):
        run(clients, server, cohort, values)
    assert all(stage != SECURE_REVEAL for stage, _ in clients.asked)


# ---- clients that do not keep to it ---------------------------------------------------------


def test_what_clients_leave_out_counts_as_dropping_out() -> None:
    ring, values = Ring.of(16, 5, 1), {k: np.full(COUNT, k, np.uint32) for k in (1, 4, 7, 10, 13)}
    lies = {
        SECURE_KEYS: {"mask-public": "none"},
        SECURE_SHARES: {"sealed": [b""]},
        SECURE_REVEAL: {"key-shares": [1, 2]},
    }
    for stage, lie in lies.items():
        clients = Clients(Settings(4, 4, 15))
        clients.tamper = lambda s, k, record, stage=stage, lie=lie: (
            ConfigRecord({**record, **lie}) if (s, k) == (stage, 7) else record
        )
        server = SecureSum(clients.ask, 5, clients.settings, ring, COUNT)
        cohort = server.set_up(sorted(values), 0)
        assert cohort == ([1, 4, 7, 10, 13] if stage == SECURE_REVEAL else [1, 4, 10, 13])
        if stage == SECURE_REVEAL:
            clients.gone_after[4] = 2
            with pytest.raises(SecureSumError, match="revealed their shares"):
                run(clients, server, cohort, values)
        else:
            assert (run(clients, server, cohort, values) == 1 + 4 + 10 + 13).all()


def run(clients, server, cohort, values):
    train(clients, server, cohort, values)
    return server.reveal()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (bytes(52), "client 10"),
        (b"\1\0\0\0" + bytes(range(48)), "client 10"),
        (b"short", "2 clients revealed their shares"),
    ],
)
def test_a_wrong_share_of_a_key_is_found(wrong: bytes, says: str) -> None:
    clients, server, cohort = federation(4, 3, 3, Ring.of(16, 4, 1), gone={10: 2})
    values = {k: np.zeros(COUNT, np.uint32) for k in cohort}
    clients.tamper = lambda stage, k, record: (
        ConfigRecord({**record, "key-shares": [wrong]})
        if (stage, k) == (SECURE_REVEAL, 4)
        else record
    )
    with pytest.raises(SecureSumError, match=says):
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


# ---- one client that spoils it for the others -----------------------------------------------

POINT = bytes([9]) + bytes(31)
SPOILED = {  # stage: what client 4 answers with in place of what it has
    SECURE_KEYS: [
        {"mask-public": bytes(32)},  # of which every other client's secret would be zero
        {"share-public": bytes(32)},
        {"mask-public": POINT, "share-public": POINT},
        {"mask-public": b"x"},
        {"mask-public": bytes(10**6)},
        {"mask-public": [bytes(32)]},
        {"mask-public": 7},
    ],
    SECURE_SHARES: [
        {"sealed": []},
        {"sealed": [b"x" * 132] * 3},
        {"sealed": [bytes(10**6)] * 4},
        {"sealed": [7] * 4},
        {"sealed": b"x"},
    ],
    SECURE_REVEAL: [
        {"seed-shares": []},
        {"seed-shares": [bytes(10**6)] * 5},
        {"seed-shares": b"x", "key-shares": ["y"]},
    ],
}


@pytest.mark.parametrize(
    ("stage", "spoiled"), [(stage, one) for stage, ones in SPOILED.items() for one in ones]
)
def test_what_one_client_sends_in_no_form_costs_its_own_vector_alone(
    stage: str, spoiled: dict, caplog
) -> None:
    ring, asked = Ring.of(16, 9, 1), Settings(4, 3, 15)
    clients = Clients(asked)

    def tamper(at: str, client: int, record: ConfigRecord) -> ConfigRecord:
        return ConfigRecord({**record, **spoiled}) if (at, client) == (stage, 4) else record

    clients.tamper = tamper
    server = SecureSum(clients.ask, 5, asked, ring, COUNT)
    cohort = server.set_up([1, 4, 7, 10, 13], 0)
    honest = [1, 7, 10, 13]
    assert cohort == ([1, 4, 7, 10, 13] if stage == SECURE_REVEAL else honest)
    values = {k: np.full(COUNT, k, words.dtype(ring.bits)) for k in cohort}
    train(clients, server, cohort, values)
    assert server.reveal().tolist() == [sum(cohort)] * COUNT
    assert "client 4 " in caplog.text
    assert len(caplog.text) < 500

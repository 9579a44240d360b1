"""The server's half of a round of secure aggregation; see ``fl_app.secure_aggregation``.

It is honest but curious: it keeps to the protocol, and what it sees tells it the sum alone.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import cast

import numpy as np
from flwr.app import ConfigRecord

from fl_app.codecs import WireError
from fl_app.codecs.modular import Ring
from fl_app.codecs.streams import words
from fl_app.codecs.streams.words import Words
from fl_app.secure_aggregation import primitives
from fl_app.secure_aggregation.member import check_apart, pair_key, pair_sign
from fl_app.secure_aggregation.settings import LEAST_CLIENTS, Settings
from fl_app.wire import readers
from fl_app.wire.messages import SECURE_KEYS, SECURE_REVEAL, SECURE_SHARES

logger = logging.getLogger("thinwire")

Ask = Callable[[str, dict[int, ConfigRecord]], dict[int, ConfigRecord]]
"""Sends one question of a stage to each client and returns the answers of those that gave one."""


class SecureSumError(RuntimeError):
    """No sum can be revealed."""


class SecureSum:
    """Adds the masked vectors of one round, and unmasks their sum.

    Parameters
    ----------
    ask : Ask
        The way to the clients.
    server_round : int
        Of the keys' purposes.
    settings : Settings
        Groups and threshold.
    ring : Ring
        The integers that are added.
    count : int
        Words of a vector.

    Attributes
    ----------
    survivors : list of int
        Clients whose vectors were added.
    """

    def __init__(
        self, ask: Ask, server_round: int, settings: Settings, ring: Ring, count: int
    ) -> None:
        self.ask = ask
        self.server_round = server_round
        self.settings = settings
        self.ring = ring
        self.total: Words = np.zeros(count, words.dtype(ring.bits))
        self.survivors: list[int] = []
        self.groups: dict[int, list[int]] = {}
        self._mask_publics: dict[int, bytes] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}

    # ---- before training ----------------------------------------------------------------------

    def set_up(self, clients: list[int], seed: int) -> list[int]:
        """Exchange keys and shares among ``clients``; return who is to train.

        Raises
        ------
        SecureSumError
            If a group has fewer left than the threshold.
        """
        publics = self._publics(clients)
        groups = neighbourhoods(clients, self.settings.neighbours, seed, self.server_round)
        self.groups = _among(groups, publics)
        self._check_left(publics, "gave their keys")
        questions = {
            client: ConfigRecord(
                {
                    "members": group,
                    "mask-publics": [publics[member][0] for member in group],
                    "share-publics": [publics[member][1] for member in group],
                }
            )
            for client, group in self.groups.items()
        }
        handed: dict[int, dict[int, bytes]] = {}
        for client, answer in self.ask(SECURE_SHARES, questions).items():
            others = [member for member in self.groups[client] if member != client]
            try:
                sealed = readers.texts(answer, "sealed", primitives.SEALED_BYTES, len(others))
            except WireError as error:
                logger.warning("client %d is left out: %s", client, error)
                continue
            handed[client] = dict(zip(others, sealed, strict=True))
        self.groups = _among(self.groups, handed)
        self._check_left(handed, "shared their secrets")
        self._mask_publics = {client: publics[client][0] for client in handed}
        self._sealed = {
            client: {member: handed[member][client] for member in group if member != client}
            for client, group in self.groups.items()
        }
        return sorted(handed)

    def _publics(self, clients: list[int]) -> dict[int, tuple[bytes, bytes]]:
        """Return the clients' keys; one whose keys every other client would refuse is left out."""
        publics: dict[int, tuple[bytes, bytes]] = {}
        own, seen = primitives.new_key(), set[bytes]()
        for client, answer in sorted(
            self.ask(SECURE_KEYS, {k: ConfigRecord() for k in clients}).items()
        ):
            try:
                both = [
                    readers.text(answer, name, primitives.KEY_BYTES)
                    for name in ("mask-public", "share-public")
                ]
                for key in both:
                    primitives.agree(own, key, "check")  # ValueError for a key that is none
                if len({*both} - seen) < len(both):
                    raise WireError("it has a key twice, or another client's")
            except ValueError as error:
                logger.warning("client %d is left out, for its keys: %s", client, error)
                continue
            seen |= {*both}
            publics[client] = both[0], both[1]
        return publics

    def sealed_for(self, client: int) -> dict[int, bytes]:
        """Return the sealed shares that other members have for ``client``."""
        return self._sealed[client]

    # ---- after training -----------------------------------------------------------------------

    def add(self, client: int, masked: Words) -> None:
        """Add a client's masked vector; no more of it is kept.

        Raises
        ------
        SecureSumError
            If the client is not in the round, or was added before.
        """
        if client not in self.groups or client in self.survivors:
            raise SecureSumError(f"client {client} has no vector to add")
        self.total += masked
        self.survivors.append(client)

    def reveal(self) -> Words:
        """Return the sum of the added vectors, modulo 2^k.

        Raises
        ------
        SecureSumError
            If too few clients are left, or the shares are not what clients have dealt.
        """
        alive = {*self.survivors}
        self._check_left(alive, "sent their vectors")
        self._check_components(alive)
        questions = {}
        for client in sorted(alive):
            survivors = [member for member in self.groups[client] if member in alive]
            dropped = [member for member in self.groups[client] if member not in alive]
            check_apart(survivors, dropped)
            questions[client] = ConfigRecord({"survivors": survivors, "dropped": dropped})
        shares: dict[int, dict[int, bytes]] = {client: {} for client in self.groups}
        for holder, answer in self.ask(SECURE_REVEAL, questions).items():
            asked = questions[holder]
            owners = [*cast(list[int], asked["survivors"]), *cast(list[int], asked["dropped"])]
            try:
                revealed = [
                    share
                    for name, of in (("seed-shares", "survivors"), ("key-shares", "dropped"))
                    for share in readers.texts(
                        answer, name, primitives.SHARE_BYTES, len(cast(list[int], asked[of]))
                    )
                ]
            except WireError as error:
                logger.warning("client %d reveals nothing: %s", holder, error)
                continue
            for owner, share in zip(owners, revealed, strict=True):
                shares[owner][holder] = share
        self._check_left({k for held in shares.values() for k in held}, "revealed their shares")
        for client in self.groups:
            secret = self._joined(client, shares[client])
            if client in alive:
                primitives.add_mask(self.total, secret, -1)
            else:
                self._take_off_pairs(client, secret, alive)
        return self.total & self.ring.mask

    def _joined(self, client: int, shares: dict[int, bytes]) -> bytes:
        some = [shares[holder] for holder in sorted(shares)[: self.settings.threshold]]
        try:
            return primitives.join(some)
        except ValueError as error:
            raise SecureSumError(
                f"round {self.server_round}: a secret of client {client} cannot be put together: "
                f"{error}"
            ) from None

    def _take_off_pairs(self, dropped: int, mask_key: bytes, alive: set[int]) -> None:
        """Take the masks with ``dropped`` off the sum of those that added them."""
        if primitives.public(mask_key) != self._mask_publics[dropped]:
            raise SecureSumError(
                f"round {self.server_round}: the shares of client {dropped} are not of its key"
            )
        for member in self.groups[dropped]:
            if member in alive:
                public = self._mask_publics[member]
                key = pair_key(mask_key, public, self.server_round, dropped, member)
                primitives.add_mask(self.total, key, -pair_sign(member, dropped))

    def _check_left(self, left: Collection[int], did: str) -> None:
        least = self.settings.threshold
        counts = [len({*group} & {*left}) for group in self.groups.values()]
        if min(counts, default=0) < least:
            raise SecureSumError(
                f"round {self.server_round}: {len(left)} clients {did}, of some client's group "
                f"{min(counts, default=0)}, where secure aggregation needs {least}: nothing is "
                "revealed. Lower strategy.secure_aggregation.threshold, or raise clients_per_round"
            )

    def _check_components(self, alive: set[int]) -> None:
        """Raise SecureSumError if the sum would tell of fewer than `LEAST_CLIENTS` apart.

        Masks cancel within a component of the graph of those that are alive: its sum can be told
        from the others'. With the threshold that clients insist on, none is too small; this stands
        whatever a threshold is.
        """
        sizes = [len(part) for part in components(self.groups, alive)]
        if min(sizes, default=0) < LEAST_CLIENTS:
            raise SecureSumError(
                f"round {self.server_round}: the clients that are left fall apart into parts of "
                f"{sorted(sizes)}, where each should have at least {LEAST_CLIENTS}: nothing is "
                "revealed. Raise strategy.secure_aggregation.neighbours, or set it to null"
            )


def neighbourhoods(
    clients: list[int], neighbours: int, seed: int, server_round: int
) -> dict[int, list[int]]:
    """Return every client's group: itself, and as many on either side of it in a random circle.

    That is the Harary graph of Bell et al.; if everyone is a neighbour, the complete one.
    """
    count = len(clients)
    if neighbours >= count - 1:
        return {client: sorted(clients) for client in clients}
    circle = np.random.default_rng([seed, server_round]).permutation(np.array(clients)).tolist()
    reach = range(-(neighbours // 2), neighbours // 2 + 1)
    return {
        client: sorted(circle[(at + step) % count] for step in reach)
        for at, client in enumerate(circle)
    }


def components(groups: Mapping[int, Collection[int]], alive: set[int]) -> list[set[int]]:
    """Return the components of the graph of ``alive``, joined to those of their groups."""
    parts: list[set[int]] = []
    unseen = {*alive}
    while unseen:
        part, new = set[int](), {min(unseen)}
        while new:
            part |= new
            new = {k for client in new for k in groups[client] if k in alive} - part
        parts.append(part)
        unseen -= part
    return parts


def _among(groups: dict[int, list[int]], left: Collection[int]) -> dict[int, list[int]]:
    """Return the groups of those who are left, of them alone."""
    return {k: [member for member in groups[k] if member in left] for k in sorted(left)}

"""One client's half of a round of secure aggregation: its secrets, and what it does with them.

Whatever the server asks, a client

- uses its keys and its seed for one round and one vector (``client`` keeps count on disk),
- reveals only once, and of no client both secrets,
- takes the size of groups and the threshold t from its own configuration.

**No server gets both secrets of a client, whatever lists it makes up.** Client i deals shares of
its seed and of its mask key once, to one group of n members at most, sealed for their keys. Each
member gives out one share of i at most, of the seed or of the key: it reveals once, and a client
whose shares it holds has survived or dropped out, never both. So n shares of i at most are given
out, of both secrets together, and the two secrets need 2t. With t > n / 2, that is n < 2t, one of
them stays hidden; it makes no difference which lists the members were shown. It would if i dealt to
2t members or more, or to two groups: hence the bound in `Member.share`.

**No sum of fewer than three, if lists are consistent.** In the graph of clients whose vectors
arrived, with an edge where two have a mask together, a client's group is in its component, and t of
it, at least 3, have to be alive: so every component has t members or more. A client sees its own
group alone: it cannot check what the others were told. The server checks every group, and every
component, before it asks anyone to reveal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord

from fl_app.codecs.streams.words import Words
from fl_app.faults import FaultError
from fl_app.secure_aggregation import primitives
from fl_app.secure_aggregation.primitives import KEY_BYTES, SHARE_BYTES
from fl_app.secure_aggregation.settings import Settings

KEYS, SHARES, MASKED = "keys", "shares", "masked"  # stages that are done


class ProtocolError(FaultError):
    """The server asks for what would break the protocol; ``why`` names clients, rounds, counts."""

    def __init__(self, why: str) -> None:
        super().__init__("secure_sum", why=why)


@dataclass
class Member:
    """What a client keeps between the stages of a round; flat, to fit Flower's records.

    Attributes
    ----------
    client, server_round : int
        Who, and in which round.
    mask_key, share_key : bytes
        Private keys: for the masks that it has with others, and to encrypt shares.
    stage : str
        The last stage that is done.
    members : list of int
        Its group, itself included, in ascending order.
    mask_publics, share_publics : list of bytes
        The public keys of ``members``.
    seed : bytes
        Of its own mask.
    holders : list of int
        Members whose shares it holds: those that its vector has masks with, and itself.
    seed_shares, key_shares : list of bytes
        Its shares of the seeds and mask keys of ``holders``.
    """

    client: int
    server_round: int
    mask_key: bytes = field(default_factory=primitives.new_key)
    share_key: bytes = field(default_factory=primitives.new_key)
    stage: str = KEYS
    members: list[int] = field(default_factory=list)
    mask_publics: list[bytes] = field(default_factory=list)
    share_publics: list[bytes] = field(default_factory=list)
    seed: bytes = b""
    holders: list[int] = field(default_factory=list)
    seed_shares: list[bytes] = field(default_factory=list)
    key_shares: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, record: ConfigRecord) -> Member:
        """Return what `record` has written."""
        return cls(**record)  # type: ignore[arg-type]

    def record(self) -> ConfigRecord:
        """Return all of it as a record of Flower's."""
        return ConfigRecord(dict(vars(self)))

    def publics(self) -> tuple[bytes, bytes]:
        """Return the public keys of ``mask_key`` and ``share_key``."""
        return primitives.public(self.mask_key), primitives.public(self.share_key)

    def share(
        self,
        members: Sequence[int],
        mask_publics: Sequence[bytes],
        share_publics: Sequence[bytes],
        settings: Settings,
    ) -> dict[int, bytes]:
        """Draw a seed and return, for every other member, the sealed shares of seed and mask key.

        Raises
        ------
        ProtocolError
            If the group is smaller than the threshold or larger than configured, has a member
            that is no client or a key twice, or lacks this client's own keys.
        """
        self._expect(KEYS)
        group = list(members)
        self._check_group(group, settings)
        for publics in (mask_publics, share_publics):
            if len(publics) != len(group) or not all(map(_is_key, publics)):
                raise ProtocolError("not one pair of keys for every member")
        if len({*mask_publics, *share_publics}) != 2 * len(group):
            raise ProtocolError("two members have the same key")
        own, threshold = group.index(self.client), settings.threshold
        if (mask_publics[own], share_publics[own]) != self.publics():
            raise ProtocolError("these keys are not what this client has sent")
        self.members = group
        self.mask_publics, self.share_publics = list(mask_publics), list(share_publics)
        self.seed = primitives.new_key()
        seeds = primitives.split(self.seed, threshold, len(group))
        keys = primitives.split(self.mask_key, threshold, len(group))
        self.holders, self.seed_shares, self.key_shares = [self.client], [seeds[own]], [keys[own]]
        self.stage = SHARES
        return {
            member: primitives.seal(self._channel(self.client, member), seed + key)
            for member, seed, key in zip(group, seeds, keys, strict=True)
            if member != self.client
        }

    def _check_group(self, group: list[int], settings: Settings) -> None:
        """Raise ProtocolError if ``group`` cannot be this client's by the configuration."""
        known = range(settings.clients)
        if not all(type(member) is int and member in known for member in group):
            raise ProtocolError(f"a group with a member that is none of {settings.clients} clients")
        if group != sorted({*group}) or self.client not in group:
            raise ProtocolError(f"{group} is no group of client {self.client}")
        if len(group) < settings.threshold:
            raise ProtocolError(
                f"a group of {len(group)}, where {settings.threshold} have to hold shares"
            )
        if len(group) > settings.group:
            raise ProtocolError(
                f"a group of {len(group)}, where the configuration has {settings.group}: so many "
                "could reveal both secrets of a client"
            )

    def hold(self, sealed: Mapping[int, bytes], settings: Settings) -> None:
        """Open and keep the shares that other members have sealed for this client.

        Raises
        ------
        ProtocolError
            If they come from too few, or from others than its group, or one does not open.
        """
        self._expect(SHARES)
        if not {*sealed} <= {*self.members} - {self.client}:
            raise ProtocolError(f"shares from {sorted(sealed)}, the group is {self.members}")
        if len(sealed) + 1 < settings.threshold:
            raise ProtocolError(
                f"shares of {len(sealed) + 1} members, where {settings.threshold} have to be left"
            )
        for member, text in sorted(sealed.items()):
            try:
                both = primitives.unseal(self._channel(member, self.client), text)
            except ValueError as error:
                raise ProtocolError(f"the shares of client {member}: {error}") from None
            if len(both) != 2 * SHARE_BYTES:
                raise ProtocolError(f"the shares of client {member} have a wrong length")
            self.holders.append(member)
            self.seed_shares.append(both[:SHARE_BYTES])
            self.key_shares.append(both[SHARE_BYTES:])

    def mask(self, words: Words) -> None:
        """Add all masks to ``words``, in place, modulo the size of their type. Once."""
        self._expect(SHARES)
        self.stage = MASKED
        primitives.add_mask(words, self.seed, 1)
        for member in self.holders:
            if member != self.client:
                other = self.mask_publics[self.members.index(member)]
                key = pair_key(self.mask_key, other, self.server_round, self.client, member)
                primitives.add_mask(words, key, pair_sign(self.client, member))

    def reveal(
        self, survivors: Sequence[int], dropped: Sequence[int], settings: Settings
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the seed shares of ``survivors`` and the key shares of ``dropped``. Once.

        Raises
        ------
        ProtocolError
            If they are not all whose shares it holds, once each, this client is no survivor, or
            too few are.
        """
        self._expect(MASKED)
        check_apart(survivors, dropped)
        if sorted([*survivors, *dropped]) != sorted(self.holders) or self.client not in survivors:
            raise ProtocolError(
                f"asked for {sorted([*survivors, *dropped])}, client {self.client} holds shares "
                f"of {sorted(self.holders)} and has survived"
            )
        if len(survivors) < settings.threshold:
            raise ProtocolError(
                f"{len(survivors)} survivors, where {settings.threshold} have to be left"
            )
        seeds = dict(zip(self.holders, self.seed_shares, strict=True))
        keys = dict(zip(self.holders, self.key_shares, strict=True))
        return [seeds[member] for member in survivors], [keys[member] for member in dropped]

    def _channel(self, sender: int, recipient: int) -> bytes:
        """Return the key of what ``sender`` seals for ``recipient``; this client is one of them."""
        other = self.members.index(recipient if sender == self.client else sender)
        purpose = f"shares of round {self.server_round} from {sender} to {recipient}"
        return primitives.agree(self.share_key, self.share_publics[other], purpose)

    def _expect(self, stage: str) -> None:
        if self.stage != stage:
            raise ProtocolError(
                f"client {self.client}, round {self.server_round}: its last stage is "
                f"{self.stage!r}, and this needs {stage!r}"
            )


def _is_key(public: object) -> bool:
    return isinstance(public, bytes) and len(public) == KEY_BYTES


def check_apart(survivors: Sequence[int], dropped: Sequence[int]) -> None:
    """Raise ProtocolError if a client is in both: its two secrets together unmask its vector."""
    if both := sorted({*survivors} & {*dropped}):
        raise ProtocolError(f"both secrets of clients {both} are asked for")


def pair_key(key: bytes, other: bytes, server_round: int, one: int, two: int) -> bytes:
    """Return the key of the mask of two clients, the same on both sides."""
    first, second = sorted((one, two))
    return primitives.agree(key, other, f"mask of round {server_round} of {first} and {second}")


def pair_sign(client: int, member: int) -> int:
    """Return 1 if ``client`` adds the mask that it has with ``member``, -1 if it takes it off."""
    return 1 if client < member else -1

"""A flower-superlink for this user's processes alone.

``python -m fl_app.simulation.private_superlink`` takes the arguments of flower-superlink.

Flower's SuperLink knows no accounts: whoever reaches its port may submit runs, stop them and read
their logs. This one listens on loopback for a simulation, and Linux says which user is at the other
end of such a connection: those of other users are closed before a byte of them is read.
"""

import asyncio
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path

import uvicorn
from flwr.superlink.cli.flower_superlink import flower_superlink
from uvicorn.protocols.http.auto import AutoHTTPProtocol

CONNECTIONS = Path("/proc/net/tcp")
ESTABLISHED = "01"
LOCAL, REMOTE, STATE, USER, INODE = 1, 2, 3, 7, 9  # columns; a socket without inode has no owner
TRIES = 3  # the table is not read at one instant

logger = logging.getLogger("flwr")


class OwnUserProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP for the user of this process; other connections are closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take a connection, or close it."""
        peer, own = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        user = user_at(peer, own)
        if user == os.getuid():
            super().connection_made(transport)
            return
        who = "an unknown user" if user is None else f"user {user}"
        logger.warning("a connection of %s was closed: this SuperLink serves its own user", who)
        transport.set_protocol(asyncio.Protocol())
        transport.abort()


def user_at(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the user whose process holds the other end, ``peer``, of a connection to ``own``.

    None if it is closed already, or not on this machine.
    """
    wanted = _written(peer), _written(own), ESTABLISHED
    for _ in range(TRIES):
        for line in CONNECTIONS.read_text().splitlines()[1:]:
            row = line.split()
            if (row[LOCAL], row[REMOTE], row[STATE]) == wanted and row[INODE] != "0":
                return int(row[USER])
    return None


def _written(address: tuple[str, int]) -> str:
    """Return an IPv4 address and port as the table has them."""
    host, port = address[:2]
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def main() -> None:
    """Be ``flower-superlink``; its options are those of the command line."""
    if sys.platform == "linux":  # elsewhere there is no such table: see docs/security.md
        uvicorn.run = partial(uvicorn.run, http=OwnUserProtocol)
    flower_superlink()


if __name__ == "__main__":
    main()

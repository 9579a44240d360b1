"""A flower-superlink that serves only processes of its own user.

``python -m fl_app.simulation.private_superlink`` takes the arguments of flower-superlink.

Flower's SuperLink has no accounts here: anyone who reaches its port may submit runs, stop them and
read their logs. This one listens on loopback for a simulation. Linux tells which user is at the
other end of such a connection; connections of other users are closed before a byte is read.
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
TRIES = 3  # reading the table is not atomic

logger = logging.getLogger("flwr")


class OwnUserProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP for the user of this process; other connections are closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept a connection of this user, close any other."""
        peer, own = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        user = user_at(peer, own)
        if user == os.getuid():
            super().connection_made(transport)
            return
        who = "an unknown user" if user is None else f"user {user}"
        logger.warning("a connection of %s was closed: this SuperLink serves only its user", who)
        transport.set_protocol(asyncio.Protocol())
        transport.abort()


def user_at(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the user id of the process at the other end of a connection.

    Parameters
    ----------
    peer, own : (str, int)
        Addresses and ports of the other end and of this end.

    Returns
    -------
    int or None
        None if the connection is already closed, or its other end is not on this machine.
    """
    wanted = _written(peer), _written(own), ESTABLISHED
    for _ in range(TRIES):
        for line in CONNECTIONS.read_text().splitlines()[1:]:
            row = line.split()
            if (row[LOCAL], row[REMOTE], row[STATE]) == wanted and row[INODE] != "0":
                return int(row[USER])
    return None


def _written(address: tuple[str, int]) -> str:
    """Return an IPv4 address and port in the form of the table."""
    host, port = address[:2]
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def main() -> None:
    """Run ``flower-superlink`` with the options of the command line."""
    if sys.platform == "linux":  # other systems have no such table: see docs/security.md
        uvicorn.run = partial(uvicorn.run, http=OwnUserProtocol)
    flower_superlink()


if __name__ == "__main__":
    main()

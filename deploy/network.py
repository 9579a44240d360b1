"""Network namespaces: every node on this machine gets its own address and interface.

An interface counts everything that goes over the link: IP and TCP headers, acknowledgements, TLS.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SUBNET = "198.18.77"  # in the range that RFC 2544 reserves for measurements
HOST = f"{SUBNET}.1"
FIRST = 10


class NetworkError(RuntimeError):
    """This process cannot make network namespaces on this machine."""


@dataclass(frozen=True)
class Namespace:
    """A network namespace with one link to this machine.

    Attributes
    ----------
    name : str
        Its name for ``ip netns``.
    address : str
        Its IPv4 address.
    interface : str
        This machine's end of the link.
    """

    name: str
    address: str
    interface: str

    def counted(self) -> int:
        """Return the bytes that the interface has sent and received so far."""
        return interface_bytes(self.interface)


def interface_bytes(interface: str) -> int:
    """Return the bytes that an interface of this machine has sent and received so far."""
    folder = Path("/sys/class/net") / interface / "statistics"
    return sum(int((folder / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


@contextmanager
def namespaces(number: int) -> Iterator[list[Namespace]]:
    """Make ``number`` namespaces on one bridge, whose address on this machine is ``HOST``.

    Raises
    ------
    NetworkError
        If this is not possible, for example because this process is not root; the message says why.
        Nothing is left behind.
    """
    tag = f"tw{os.getpid() % 100000}"
    bridge = f"{tag}br"
    with ExitStack() as made:
        _ip("link", "add", bridge, "type", "bridge")
        made.callback(_ip, "link", "delete", bridge)
        _ip("link", "set", bridge, "addrgenmode", "none")
        _ip("address", "add", f"{HOST}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        spaces = []
        for k in range(number):
            space = Namespace(f"{tag}n{k}", f"{SUBNET}.{FIRST + k}", f"{tag}h{k}")
            inner = f"{tag}i{k}"
            _ip("netns", "add", space.name)
            made.callback(_ip, "netns", "delete", space.name)
            _ip("link", "add", space.interface, "type", "veth", "peer", "name", inner)
            made.callback(_ip, "link", "delete", space.interface)  # this deletes both ends
            for end in (space.interface, inner):
                _ip("link", "set", end, "addrgenmode", "none")
                # Use packets as large as on a wire, not 64 KiB with one header.
                _ip("link", "set", end, "gso_max_segs", "1")
            _ip("link", "set", inner, "netns", space.name)
            _ip("link", "set", space.interface, "master", bridge, "up")
            inside: Sequence[str] = ("-n", space.name)
            _ip(*inside, "address", "add", f"{space.address}/24", "dev", inner)
            _ip(*inside, "link", "set", inner, "up")
            _ip(*inside, "link", "set", "lo", "up")
            spaces.append(space)
        yield spaces


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NetworkError("there is no command ip (package iproute2)") from None
    if done.returncode:
        raise NetworkError(f"ip {' '.join(words)}: {done.stderr.strip()}")

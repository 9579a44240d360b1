"""Connections of this machine to itself use no proxy, whatever the environment says of others."""

from collections.abc import Mapping
from importlib.util import find_spec

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def loopback_direct(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which loopback needs no proxy; others are still reached by theirs.

    A SOCKS proxy is left out where the package that it needs is missing: Flower's client would not
    even start, though it connects to loopback alone.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not (name.lower() in PROXIES and _is_unusable(value))
    }
    direct = kept.get("no_proxy") or kept.get("NO_PROXY", "")  # where both are set, as Python does
    grpc = kept.get("no_grpc_proxy") or direct
    direct, grpc = (",".join(filter(None, (some, *LOOPBACK))) for some in (direct, grpc))
    return {**kept, "no_proxy": direct, "NO_PROXY": direct, "no_grpc_proxy": grpc}


def _is_unusable(proxy: str) -> bool:
    return proxy.lower().startswith("socks") and find_spec("socksio") is None

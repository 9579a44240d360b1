"""The launcher's own conduct when it is interrupted, without Flower."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from fl_app import run
from fl_app.config import ConfigError, compose
from fl_app.simulation import (
    helpers,
    private_superlink,
    proxies,
    ray_folder,
    ray_workers,
    superlink,
)
from fl_app.simulation.processes import ENDINGS, Family, interrupt, is_alive
from tests import modes


class DisturbedError(Exception):
    """A signal came through."""


@pytest.fixture
def disturbing() -> Iterator[None]:
    def disturb(signum: int, frame: object) -> None:
        raise DisturbedError(signum)

    before = {ending: signal.signal(ending, disturb) for ending in ENDINGS}
    yield
    for ending, handler in before.items():
        signal.signal(ending, handler)


def test_nothing_disturbs_the_stopping(disturbing, monkeypatch) -> None:
    process = subprocess.Popen(["sleep", "60"])
    family = Family([process])

    def insist() -> list:
        for ending in ENDINGS:
            os.kill(os.getpid(), ending)
        return []

    monkeypatch.setattr(family, "members", insist)
    superlink.stop([process], {}, family)
    assert process.poll() is not None
    with pytest.raises(DisturbedError):
        os.kill(os.getpid(), signal.SIGTERM)


SHELL = "sleep 60 & echo $!; wait"  # a helper with a process of its own


def test_a_helper_that_dies_ends_the_run_with_its_last_words_and_leaves_no_process(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """Also where nothing answers any more, which `flwr run` waits for."""
    helper = subprocess.Popen(["sh", "-c", SHELL], stdout=subprocess.PIPE, text=True)
    family = Family([helper])
    orphan = psutil.Process(int(helper.stdout.readline()))
    (tmp_path / "superexec.log").write_text("one\n[state-dump] 1\n\nno more memory\n")
    environment = {
        **os.environ, run.APP: str(tmp_path / "app"), run.CPUS: "2", "FLWR_HOME": str(tmp_path),
        helpers.HELPERS: helpers.named({"SuperExec": helper.pid}),
    }  # fmt: skip
    waits = tmp_path / "flwr"
    waits.write_text("#!/bin/sh\nexec sleep 60\n")
    waits.chmod(0o755)
    monkeypatch.setattr(run, "script", lambda name: str(waits))
    monkeypatch.setattr(run, "EVERY", 0.05)
    assert helpers.ended(environment) is None
    family._look([helper.pid])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run.submit, "", environment)
        helper.kill()
        assert running.result(timeout=30) == 1
    assert capsys.readouterr().err == (
        "SuperExec has ended, and the run with it. The end of its log:\none\nno more memory\n"
    )
    superlink.stop([helper], environment, family)
    assert not is_alive(orphan)


def test_what_ended_first_is_named_also_where_the_log_of_the_run_ends_before(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """The SuperLink is ended with the run, and the SuperExec waits for what is left of Ray."""
    gone = subprocess.Popen(["true"])
    environment = {
        **os.environ, run.APP: str(tmp_path / "app"), run.CPUS: "2", "FLWR_HOME": str(tmp_path),
        helpers.HELPERS: helpers.named({"SuperLink": gone.pid}),
    }  # fmt: skip
    gone.wait()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    helpers.note("Ray's gcs_server has ended")
    flwr = tmp_path / "flwr"
    flwr.write_text("#!/bin/sh\nexit 1\n")
    flwr.chmod(0o755)
    monkeypatch.setattr(run, "script", lambda name: str(flwr))
    monkeypatch.setattr(superlink, "script", lambda name: pytest.fail("nobody would answer"))
    monkeypatch.setattr(run, "EVERY", 60)
    assert run.submit("", environment) == 1
    assert capsys.readouterr().err == "Ray's gcs_server has ended\n"


def test_a_machine_too_busy_for_ray_is_named_in_place_of_rays_traceback(
    tmp_path: Path, monkeypatch
) -> None:
    def slow(**_) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    environment = {"FLWR_HOME": str(tmp_path), helpers.HELPERS: helpers.named({"me": os.getpid()})}
    monkeypatch.setattr(ray_workers, "UNUSED", ())
    monkeypatch.setattr(ray_workers.ray, "init", slow)
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    with pytest.raises(Exception, match="timed out"):
        ray_workers.start_ray(1)
    assert "fl_app.run_experiment" in helpers.ended(environment)


def test_a_quotation_at_the_end_of_a_log_is_shown_with_the_line_that_it_belongs_to(
    tmp_path: Path,
) -> None:
    log = tmp_path / "superexec.log"
    quoted = [f"    {number}" for number in range(20)]
    log.write_text("\n".join(["before", "the raylet is dead. Its log:", *quoted]))
    shown = helpers.tail(log).splitlines()
    assert shown == ["the raylet is dead. Its log:", *quoted[1 - helpers.TAIL :]]
    log.write_text("")
    with subprocess.Popen(["true"]) as gone:
        environment = {
            "FLWR_HOME": str(tmp_path),
            helpers.HELPERS: helpers.named({"SuperExec": gone.pid}),
        }
    assert helpers.ended(environment).endswith("The end of its log:\n(it is empty)")


def test_ray_gets_a_short_private_folder_whatever_tmpdir_is(tmp_path: Path, monkeypatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with ray_folder.ray_folder() as name:
        assert len(name + ray_folder.SOCKET) <= ray_folder.SOCKET_BYTES
        assert modes.of(Path(name)) == 0o700
        with socket.socket(socket.AF_UNIX) as listening:
            path = Path(name + ray_folder.SOCKET)
            path.parent.mkdir(parents=True)
            listening.bind(str(path))
    assert not Path(name).exists()
    monkeypatch.setattr(ray_folder, "MOST", 3)
    with (
        pytest.raises(superlink.SuperLinkError, match=r"at most 3 bytes.*set TMPDIR"),
        superlink.superlinks(),
    ):
        pass


PROXY, GRPC = "http://127.0.0.1:9", "no_grpc_proxy"


@pytest.mark.parametrize(
    "given",
    [
        {"http_proxy": PROXY}, {"HTTPS_PROXY": PROXY}, {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"all_proxy": PROXY, "NO_PROXY": "example.org"}, {"http_proxy": PROXY, "no_proxy": "*"},
        {"grpc_proxy": PROXY, "no_grpc_proxy": "example.org"},
    ],
)  # fmt: skip
def test_loopback_is_reached_without_the_proxy(given: dict[str, str], monkeypatch) -> None:
    for name in [*os.environ]:
        if "proxy" in name.lower():
            monkeypatch.delenv(name)
    for name, value in proxies.loopback_direct(given).items():
        monkeypatch.setenv(name, value)
    assert all(urllib.request.proxy_bypass(host) for host in proxies.LOOPBACK)
    assert "127.0.0.1" in os.environ[GRPC]
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        answer = httpx.get(f"http://127.0.0.1:{server.server_port}")
    assert answer.status_code == 501  # of the server itself: no proxy is there
    for name in ("NO_PROXY", GRPC):  # what was there stays
        assert given.get(name, "") in os.environ[name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_first_signal_is_answered_at_once_and_further_ones_ignored(
    disturbing, ending, capfd
) -> None:
    signal.signal(ending, interrupt)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), ending)
    assert "stopping" in capfd.readouterr().err
    for again in ENDINGS:
        os.kill(os.getpid(), again)


def test_a_flower_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "flwr"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(superlink, "script", lambda name: str(script))
    monkeypatch.setattr(superlink, "FLWR_SECONDS", 0.2)
    assert superlink.flwr("list", environment=dict(os.environ)) == ""
    assert superlink.status(dict(os.environ), patience=0.1) == ("unknown", "")


def test_a_name_that_is_taken_is_refused_before_anything_starts(tmp_path: Path, capsys) -> None:
    (tmp_path / "taken").mkdir()
    assert run.main([f"output.dir={tmp_path}", "output.name=taken"]) == 2
    assert "choose another output.name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "cpus", "wanted"),
    [
        ("clients_per_round=1", 8, 8),  # one actor
        ("clients_per_round=2", 8, 4),
        ("clients_per_round=1 evaluate_clients_per_round=4", 8, 2),
        ("clients_per_round=10", 2, 1),  # as many as there are processors
        ("clients_per_round=10 federation.torch_threads=2", 8, 2),
    ],
)
def test_no_more_actors_than_clients_at_once(words: str, cpus: int, wanted: int) -> None:
    assert run.cpus_per_actor(compose(words), cpus) == wanted


def test_more_threads_than_processors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"torch_threads=4.*2 processors"):
        run.cpus_per_actor(compose("federation.torch_threads=4"), 2)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who is at the other end")
def test_who_connects_is_known_and_who_has_gone_is_nobody(listener: socket.socket) -> None:
    """A request that is sent, and the connection closed at once, is not taken for root's."""
    with socket.create_connection(listener.getsockname()) as client:
        accepted, peer = listener.accept()
        assert private_superlink.user_at(peer, accepted.getsockname()) == os.getuid()
        client.sendall(b"POST / HTTP/1.1\r\n\r\n")
    assert private_superlink.user_at(peer, accepted.getsockname()) is None
    accepted.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who is at the other end")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_told_from_this_one(listener: socket.socket) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        client = socket.create_connection(listener.getsockname())
        os.read(read, 1)
        client.close()
        os._exit(0)
    accepted, peer = listener.accept()
    assert private_superlink.user_at(peer, accepted.getsockname()) == 65534
    os.write(write, b"x")
    os.waitpid(child, 0)
    accepted.close()

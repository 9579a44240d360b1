"""Bundles: the honest one is taken, any other is refused before anything of it is unpacked."""

import copy
import importlib
import random
import tomllib
import tracemalloc
import warnings
import zipfile
from io import BytesIO

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus
from hypothesis import given
from hypothesis import strategies as st

from fl_app.files import installed
from fl_app.simulation import bundle, executor
from fl_app.simulation.bundle import BundleError

TEXT = installed("pyproject.toml").read_text()
OURS = bundle.described(TEXT)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build_fab_from_disk(bundle.make(tmp_path_factory.mktemp("bundle")))


def fab(*files: tuple[str, str | bytes]) -> bytes:
    """Return a bundle with pyproject.toml of the project and more, or other, files."""
    said = BytesIO()
    with zipfile.ZipFile(said, "w", zipfile.ZIP_DEFLATED) as archive:
        if "pyproject.toml" not in dict(files):
            archive.writestr("pyproject.toml", TEXT)
        for name, content in files:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name that is there twice
                archive.writestr(name, content)
    return said.getvalue()


def changed(*path: str, value: object) -> bytes:
    """Return a bundle whose pyproject.toml has another value at ``path``."""
    description = copy.deepcopy(tomllib.loads(TEXT))
    table = description
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return fab(("pyproject.toml", tomli_w.dumps(description)))


APP = ("tool", "flwr", "app")
EVIL = {"serverapp": "evilpkg.server:app", "clientapp": "evilpkg.client:app"}
HOSTILE = {
    "another app": (changed("project", "name", value="evil"), "other app.*'evil', not 'thinwire'"),
    "another publisher": (changed(*APP, "publisher", value="x\n\x1b[31m"), r"is 'x\\n\\x1b\[31m'"),
    "another version": (changed("project", "version", value="9.9.9"), "'9.9.9', not '0.2.0'"),
    "other components": (changed(*APP, "components", value=EVIL), "components is .*evilpkg"),
    "one more component": (
        changed(*APP, "components", "agentapp", value="fl_app.server_app:app"), "components",
    ),
    "another configuration": (changed(*APP, "config", "overrides", value="seed=1"), "flwr.app"),
    "code of our name": (fab(("fl_app/__init__.py", "raise SystemExit")), "fl_app/__init__.py"),
    "code of another name": (fab(("conftest.py", "")), "'conftest.py', but runs bring no code"),
    "what is imported at start": (fab(("sitecustomize.pth", "import os")), "sitecustomize.pth"),
    "a configuration file": (fab(("conf/config.yaml", "a: 1")), "conf/config.yaml"),
    "a path that leads out": (fab(("../../x.py", "")), r"\.\./\.\./x\.py"),
    "an absolute path": (fab(("/etc/x", "")), "/etc/x"),
    "a file twice": (
        fab(("pyproject.toml", TEXT), ("pyproject.toml", changed("project", "name", value="x"))),
        "twice",
    ),
    "no description": (fab(("pyproject.toml", ""), (".info/CONTENT", "")), "cannot be read"),
    "deep nesting": (fab(("pyproject.toml", "a=" + "[" * 60_000)), "cannot be read"),
    "other bytes": (b"PK\x05\x06" + bytes(40), "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "too large": (bytes(10**6), "1,000,000 bytes, 65,536 at most"),
    "a description that unpacks to 30 MB": (
        fab(("pyproject.toml", bytes(30 * 10**6))), "unpacks to 30,000,000 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_this_app_is_refused_in_one_line_that_says_how_to_mend_it(name: str) -> None:
    sent, says = HOSTILE[name]
    with pytest.raises(BundleError, match=says) as refused:
        bundle.check(sent, OURS)
    assert "make run" in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_what_runs_submit_is_taken(honest: bytes) -> None:
    bundle.check(honest, OURS)


def test_sizes_are_checked_before_anything_is_unpacked(honest: bytes) -> None:
    """Also if the size that the archive tells is a lie."""
    bomb = HOSTILE["a description that unpacks to 30 MB"][0]
    lies = bomb.replace((30 * 10**6).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lies != bomb
    bundle.check(honest, OURS)  # whatever is imported for it is there
    for sent in (bomb, lies):
        tracemalloc.start()
        with pytest.raises(BundleError):
            bundle.check(sent, OURS)
        assert tracemalloc.get_traced_memory()[1] < 10**6
        tracemalloc.stop()


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_a_damaged_bundle_is_refused_or_still_says_the_same(honest, seed: int, number: int) -> None:
    draw, sent = random.Random(seed), bytearray(honest)
    for _ in range(number):
        sent[draw.randrange(len(sent))] = draw.randrange(256)
    try:
        bundle.check(bytes(sent), OURS)
    except BundleError:
        return
    with zipfile.ZipFile(BytesIO(sent)) as archive:
        assert {*archive.namelist()} <= bundle.FILES
        assert bundle.described(archive.read("pyproject.toml").decode()) == OURS


@pytest.mark.parametrize("kind", executor.COMMANDS)
def test_flower_asks_us_to_install_and_finds_what_is_installed(kind, monkeypatch, honest) -> None:
    """If another version of Flower did so elsewhere, a bundle's code could run again."""
    places = [(importlib.import_module(m), name) for m, name in executor.INSTALLS[kind]]
    for place, name in places:
        monkeypatch.setattr(place, name, getattr(place, name))  # restored after the test
    assert {name for _, name in places} == {executor.INSTALL, executor.FIND}
    executor.use_installed_app(kind)
    root = installed(bundle.INSTALLED).parent
    for place, name in places:
        if name == executor.FIND:
            assert getattr(place, name)("evil/evil", "/../../x", "0" * 64) == root
            continue
        install = getattr(place, name)
        assert install(honest, skip_prompt=True) == root
        with pytest.raises(BundleError):
            install(HOSTILE["code of our name"][0], skip_prompt=True)
        monkeypatch.delattr(place, name)
        with pytest.raises(RuntimeError, match="this version of Flower"):
            executor.use_installed_app(kind)


def test_an_executor_takes_no_tasks_but_its_own() -> None:
    """Flower's agents, models and connectors run what a bundle or a server says."""
    own = object.__new__(executor.PreloadedExecutor)
    own.task_types = (TaskType.CLIENT_APP,)
    assert own.get_eligible_capacity(set(TaskType), insecure=True) == (
        {TaskType.CLIENT_APP}, set(),
    )  # fmt: skip
    for kind in set(TaskType) - {TaskType.CLIENT_APP}:
        spec = ExecutionSpec(
            task_type=kind, runtime_api_address="127.0.0.1:1", token="x", insecure=True,
            root_certificates_path=None, runtime_dependency_install=False, parent_pid=None,
            suppress_output=True, task_id=1,
        )  # fmt: skip
        assert own.launch(spec).status == LaunchResultStatus.FAILED

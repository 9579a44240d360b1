"""The deployment kit: what its scripts make, and that units, Compose file and recipes are valid."""

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.cli.app import app as flwr_cli
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from fl_app.simulation import bundle
from fl_app.simulation.superlink import script
from tests import modes

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "deploy"
SCRIPTS = sorted([*KIT.glob("*.sh"), *KIT.glob("*.sbatch")])
UNITS = sorted((KIT / "systemd").glob("*.service"))
COMPOSE = yaml.safe_load((KIT / "compose.yaml").read_text())
PAGE = ROOT / "docs/deployment.md"


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# ---- certificates and keys ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki") / "certificates"
    done = run(KIT / "certificates.sh", folder, "superlink.example", "192.0.2.7", "2001:db8::7")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_servers_certificate_is_of_the_authority_and_for_the_hosts(certificates: Path) -> None:
    done = run("openssl", "verify", "-purpose", "sslserver", "-CAfile",
               certificates / "ca.crt", certificates / "server.crt")  # fmt: skip
    assert done.returncode == 0, done.stderr
    server = x509.load_pem_x509_certificate((certificates / "server.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {
        "localhost", "127.0.0.1", "superlink.example", "192.0.2.7", "2001:db8::7",
    }  # fmt: skip
    assert isinstance(server.public_key().curve, ec.SECP384R1)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_private_keys_are_their_owners_alone(certificates: Path, tmp_path: Path) -> None:
    assert run(KIT / "node_key.sh", tmp_path / "node").returncode == 0
    for path in (certificates / "ca.key", certificates / "server.key", tmp_path / "node"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_renewed_certificate_is_of_the_same_authority(certificates: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(certificates, tmp_path / "copy"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(KIT / "certificates.sh", folder, "other.example", DAYS="30").returncode == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"server.crt", "server.key"}
    assert run("openssl", "verify", "-CAfile", certificates / "ca.crt",
               folder / "server.crt").returncode == 0  # fmt: skip


def test_a_nodes_key_is_the_curve_that_flower_wants_and_is_never_overwritten(tmp_path) -> None:
    assert run(KIT / "node_key.sh", tmp_path / "node").returncode == 0
    key = load_ssh_private_key((tmp_path / "node").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    assert (tmp_path / "node.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    before = (tmp_path / "node").read_bytes()
    again = run(KIT / "node_key.sh", tmp_path / "node")
    assert (again.returncode, "never overwritten" in again.stderr) == (1, True)
    assert (tmp_path / "node").read_bytes() == before


def test_the_connection_is_where_flowers_commands_look(certificates: Path, tmp_path: Path) -> None:
    done = run(KIT / "connect.sh", "superlink.example:9091", certificates / "ca.crt",
               FLWR_HOME=str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert modes.of(tmp_path / "config.toml") == 0o600
    listed = run(script("flwr"), "config", "list", FLWR_HOME=str(tmp_path))
    assert "thinwire" in listed.stdout


def _home(path: Path, kind: str) -> None:
    """Make what somebody may have put where FLWR_HOME is to be."""
    if kind == "a link":
        (path.parent / "elsewhere").mkdir()
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "a file":
        path.write_text("")
    elif kind != "nothing":
        path.mkdir()
        path.chmod({"for all to read": 0o755, "for all to write": 0o777}.get(kind, 0o700))
        if kind == "of another user":
            if os.getuid() != 0:
                pytest.skip("only root can give a folder away")
            os.chown(path, 65534, 65534)


def _state(path: Path) -> tuple[object, ...]:
    """Return all that a command can change, without the time of access, which looking changes."""
    found = path.lstat()
    return found.st_mode, found.st_uid, found.st_ctime_ns, *path.parent.glob("**/*")


@pytest.mark.parametrize(
    ("kind", "taken"),
    {"nothing": True, "for all to read": True, "for all to write": False, "a link": False,
     "a file": False, "of another user": False}.items(),
)  # fmt: skip
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_home_that_is_not_ones_own_is_refused(kind, taken, slash, tmp_path) -> None:
    home = tmp_path / "home"
    _home(home, kind)
    before = None if taken else _state(home)
    done = run(
        "bash", "-c", f"set -euo pipefail; . {KIT / 'environment.sh'}; secret",
        FLWR_HOME=f"{home}{slash}", BIN=str(Path(sys.executable).parent),
    )  # fmt: skip
    if taken:
        assert done.returncode == 0, done.stderr
        assert [modes.of(home), modes.of(home / "superexec.secret")] == [0o700, 0o600]
        return
    assert done.returncode == 2
    assert "choose another FLWR_HOME" in done.stderr
    assert _state(home) == before


SUPERLINK = {"CERTIFICATES": "/nowhere"}
SUPERNODE = {
    "SUPERLINK": "x:1",
    "CA": "/nowhere/ca.crt",
    "KEY": "/nowhere/key",
    "NODE_CONFIG": "a=1",
}


@pytest.mark.parametrize(
    ("name", "environment", "says"),
    [
        ("superlink.sh", {}, "CERTIFICATES is not set"),
        ("superlink.sh", SUPERLINK, "/nowhere/ca.crt cannot be read"),
        *(
            (
                "supernode.sh",
                {k: v for k, v in SUPERNODE.items() if k != name},
                f"{name} is not set",
            )
            for name in SUPERNODE
        ),
        ("supernode.sh", SUPERNODE, "/nowhere/ca.crt cannot be read"),
        ("supernode.sh", SUPERNODE | {"POLICY": "/nowhere/x"}, "/nowhere/x cannot be read"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(name, environment, says, tmp_path) -> None:
    done = run(
        KIT / name, **environment, FLWR_HOME=str(tmp_path), BIN=str(Path(sys.executable).parent)
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("named", ["POLICY", "NODE_CONFIG"])
def test_a_node_with_a_wrong_policy_does_not_start(named: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("run: {round: 3}")
    for name in ("ca.crt", "key"):
        (tmp_path / name).write_text("")
    given = {"POLICY": str(policy), "NODE_CONFIG": f'a=1 policy="{policy}"'}
    environment = SUPERNODE | {
        "CA": str(tmp_path / "ca.crt"), "KEY": str(tmp_path / "key"), named: given[named],
        "FLWR_HOME": str(tmp_path / "home"), "BIN": str(Path(sys.executable).parent),
    }  # fmt: skip
    done = run(KIT / "supernode.sh", **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"the policy {policy}: run.round is no key; known here: ")
    assert not (tmp_path / "home").exists()


# ---- recipes ------------------------------------------------------------------------------------

ECHO = """#!/usr/bin/env bash
echo "$CUDA_VISIBLE_DEVICES|$KEY|$NODE_CONFIG|$RUNTIME_PORT|$FLWR_HOME|$SUPERLINK|$CA"
[ -z "${LOGS:-}" ] || sleep 1  # when one ends, gpus.sh stops them all
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The kit, with a node script that says what it was given."""
    folder = Path(shutil.copytree(KIT, tmp_path / "deploy"))
    (folder / "supernode.sh").write_text(ECHO)
    return folder


def test_every_gpu_gets_a_node_key_partition_port_and_home_of_its_own(copied, tmp_path) -> None:
    environment = {
        "SUPERLINK": "x:1", "CA": "ca", "KEYS": "/k", "FIRST": "4", "PARTITIONS": "8", "DATA": "/d",
        "FLWR_HOME": "/h", "LOGS": str(tmp_path),
    }  # fmt: skip
    assert run(copied / "gpus.sh", "2", "5", **environment).returncode == 0
    said = [(tmp_path / f"node-{part}.log").read_text().strip() for part in (4, 5)]
    assert {modes.of(tmp_path / f"node-{part}.log") for part in (4, 5)} == {0o600}
    assert said == [
        f"{gpu}|/k/node-{part}|partition-id={part} num-partitions=8 "
        f'data-path="/d/node-{part}.jsonl"'
        f"|{port}|/h/node-{part}|x:1|ca"
        for gpu, part, port in ((2, 4, 9094), (5, 5, 9095))
    ]


def test_every_slurm_task_gets_its_own(copied: Path, tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"  # runs two tasks as Slurm would: both on one machine
    srun.parent.mkdir()
    srun.write_text(
        "#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\n"
        'for t in 0 1; do SLURM_PROCID=$t SLURM_LOCALID=$t CUDA_VISIBLE_DEVICES=$t "$@"; done\n'
    )
    srun.chmod(0o755)
    done = subprocess.run(
        [str(copied / "slurm.sbatch")],
        env={**os.environ, "PATH": f"{srun.parent}:{os.environ['PATH']}", "SUPERLINK": "x:1",
             "CA": "ca", "KEYS": "/k", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7",
             "TMPDIR": str(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [line.split("|") for line in done.stdout.splitlines()]
    assert [words[:4] + words[5:] for words in told] == [
        [f"{t}", f"/k/node-{t}", f"partition-id={t} num-partitions=2", f"{9094 + t}", "x:1", "ca"]
        for t in (0, 1)
    ], done.stderr
    for t, words in enumerate(told):  # in a folder for everybody, whose names can be guessed
        home = Path(words[4])
        assert re.fullmatch(rf"thinwire-7-{t}-\w{{6}}", home.name)
        assert (home.parent, modes.of(home)) == (tmp_path, 0o700)


# ---- what is written is valid -------------------------------------------------------------------


def test_shellcheck_finds_nothing() -> None:
    done = run(script("shellcheck"), "-x", *SCRIPTS)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/thinwire", str(ROOT)))
    done = run("systemd-analyze", "verify", copy)
    assert (done.returncode, done.stderr) == (0, "")
    broken = tmp_path / f"broken-{unit.name}"
    broken.write_text(copy.read_text().replace("Restart=", "Restrat="))
    assert "Restrat" in run("systemd-analyze", "verify", broken).stderr


def test_the_compose_file_fits_its_specification() -> None:
    checker = script("check-jsonschema")
    done = run(checker, "--builtin-schema", "vendor.compose-spec", KIT / "compose.yaml")
    assert done.returncode == 0, done.stdout


def test_every_path_that_units_compose_and_image_name_is_in_the_project() -> None:
    for unit in UNITS:
        for path in re.findall(r"/opt/thinwire/((?:deploy|docs)/\S+)", unit.read_text()):
            assert (ROOT / path).is_file(), path
    for service in COMPOSE["services"].values():
        assert os.access(ROOT / service["command"][0], os.X_OK)
    for source in re.findall(r"^COPY (.+) \S+$", (KIT / "Dockerfile").read_text(), re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source


def _given() -> Iterator[tuple[str, str, set[str]]]:
    """Each place that sets variables for a script, the script, and the variables."""
    for unit in UNITS:
        text = unit.read_text()
        lines = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
        names = {word.partition("=")[0] for line in lines for word in line.split()}
        yield unit.name, re.findall(r"deploy/(\w+\.sh)$", text, re.MULTILINE)[0], names
    for name, service in COMPOSE["services"].items():
        yield f"compose: {name}", Path(service["command"][0]).name, {*service["environment"]}


@pytest.mark.parametrize(("place", "name", "given"), _given())
def test_a_variable_that_is_set_is_one_that_the_script_reads(place, name, given) -> None:
    read = {*re.findall(r"\$\{?([A-Z_]{2,})", (KIT / name).read_text())}
    assert given - {"HOME"} <= read | {"FLWR_HOME"}, place
    needed = re.search(r"^need (.+)$", (KIT / name).read_text(), re.MULTILINE)
    assert needed
    from_a_file = {"SUPERLINK", "NODE_CONFIG"} if "service" in place and "node" in place else set()
    assert {*needed[1].split()} <= given | from_a_file, place


# ---- every command and option exists in Flower --------------------------------------------------


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


FLOWER = {
    "superlink.sh": _options(_parse_args_run_superlink()),
    "supernode.sh": _options(_parse_args_run_supernode()),
}


@pytest.mark.parametrize("name", FLOWER)
def test_every_option_of_the_scripts_is_known_to_flower_or_the_executor(name: str) -> None:
    executor = run(sys.executable, "-m", "fl_app.simulation.superexec", "--help").stdout
    known = FLOWER[name] | {*re.findall(r"--[a-z-]+", executor)}
    code = re.sub(r"#.*", "", (KIT / name).read_text())
    used = {*re.findall(r"(?<=\s)--[a-z-]+", code)}
    assert len(used) > 8
    assert used <= known


def _flwr_commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split() for line in lines if re.match(r"\s*flwr ", line)]


def _known(words: list[str]) -> tuple[set[str], list[str]]:
    """Return the options of the command that ``words`` begin with, and the words after it."""
    command: click.Command = typer.main.get_command(flwr_cli)
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        assert words[0] in command.commands, f"{words[0]} is no command of flwr"
        command, words = command.commands[words[0]], words[1:]
    return {option for one in command.params for option in one.opts + one.secondary_opts}, words


@pytest.mark.parametrize("words", _flwr_commands(PAGE.read_text()), ids=" ".join)
def test_every_flwr_command_of_the_page_exists(words: list[str]) -> None:
    options, rest = _known(words[1:])
    assert {word for word in rest if word.startswith("--")} <= options


def test_the_page_shows_flwr_commands_and_files_that_are_there() -> None:
    text = PAGE.read_text()
    assert len(_flwr_commands(text)) >= 5
    for path in {*re.findall(r"(?<!tests/)\bdeploy/[\w./@-]+\w", text)}:
        assert (ROOT / path).exists(), path


def test_the_bundle_that_every_node_fetches_is_small_and_has_no_code(tmp_path: Path) -> None:
    app = bundle.make(tmp_path)
    assert [path.name for path in app.rglob("*")] == ["pyproject.toml"]
    assert bundle.size(app) < 6000

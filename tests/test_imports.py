"""Who may import whom, and where the insides of other packages may be: read from the sources."""

import ast
import inspect
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from fl_app.simulation import executor

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("fl_app", "strategies")
    for path in sorted((ROOT / top).rglob("*.py"))
}


NAMED = re.compile(r"(fl_app(?:\.\w+)+)(:\w+)?")  # the places of a ``config.named.Named``


def imported(module: str) -> Iterator[str]:
    """Yield the dotted names that ``module`` imports anywhere in it: modules, or names in them."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Constant) and (found := NAMED.fullmatch(str(node.value))):
            yield found[1]
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(name: str) -> str:
    """Return the folder or module of fl_app that a dotted name is in, or strategies."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == "fl_app" and rest else top


@cache  # when it is asked for: every worker collects this module, and one of them runs it
def imports() -> dict[str, set[str]]:
    """Return package -> the others that it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in SOURCES:
        for name in imported(source):
            if name.startswith(("fl_app.", "strategies.")) and package(name) != package(source):
                found[package(source)].add(package(name))
    return found


# From the bottom to the top. A package imports from lines above its own, and nothing else.
LAYERS = (
    {"tree", "seeds", "files", "faults"},
    {"config"},  # with these the ground
    {"codecs"},
    {"wire", "data", "models", "augment"},
    {"tasks", "adapters"},
    {"training"},
    {"privacy"},
    {"secure_aggregation"},
    {"aggregation"},
    {"strategies", "runs", "session"},
    {"report", "preflight", "progress"},
    {"build", "pretraining"},
    {"client", "server"},
    {"client_app", "server_app"},
    {"simulation"},
    {"run"},
    {"sweep"},
    {"command"},
)
GROUND = LAYERS[0] | LAYERS[1]


def test_few_modules_stand_in_no_package() -> None:
    assert len([*(ROOT / "fl_app").glob("*.py")]) <= 9


def test_imports_go_one_way() -> None:
    """So no two packages import each other, server and client among them."""
    assert {package(source) for source in SOURCES} - {"fl_app"} == set().union(*LAYERS)
    below: set[str] = set()
    for layer in LAYERS:
        for name in layer:
            assert imports()[name] <= below, f"{name} imports {sorted(imports()[name] - below)}"
        below |= layer


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("codecs", GROUND - {"config"}),
        ("wire", GROUND | {"codecs"}),
        ("data", GROUND),
        ("models", GROUND),
        ("tasks", GROUND | {"data", "models"}),
        ("adapters", GROUND | {"codecs", "models"}),
        ("augment", GROUND),
        ("training", GROUND | {"augment", "codecs", "data", "models", "tasks", "adapters"}),
        (
            "strategies",
            GROUND | {"wire", "data", "models", "tasks", "adapters", "training", "aggregation"}
            | {"privacy"}  # where a strategy's noise comes from
            | {"codecs"},  # a method that is defined by what it sends
        ),
    ],
)  # fmt: skip
def test_a_package_imports_no_others_than_these(name: str, may: set[str]) -> None:
    assert imports()[name] <= may


@pytest.mark.parametrize(
    ("names", "never"),
    [
        (set().union(*LAYERS) - {"strategies"}, {"strategies"}),  # conf names them
        ({"runs", "report"}, {"server", "client", "aggregation"}),
        ({"server"}, {"client"}),
        ({"client"}, {"server"}),
    ],
)
def test_a_package_never_imports_these(names: set[str], never: set[str]) -> None:
    """Nor does what it imports."""
    for name in names:
        found, todo = set(), {name}
        while todo:
            one = todo.pop()
            found.add(one)
            todo |= imports()[one] - found
        assert not found & never, name


# ---- the insides of other packages ---------------------------------------------------------------

# With another version, look at every name again, also at what it does.
SEEN_IN = {
    "flwr": "1.42.0", "ray": "2.55.1", "numba": "0.68.1", "transformers": "5.24.0",
    "peft": "0.21.2", "torch": "2.13.0", "uvicorn": "0.49.0", "hydra-core": "1.3.8",
}  # fmt: skip

DOCUMENTED = re.compile(
    r"flwr\.(app|clientapp(\.typing)?|serverapp(\.strategy)?)(\.[A-Z]\w*)?"
    r"|numba|numba\.extending\.\w+"
    r"|transformers(\.utils|\.modeling_outputs)?(\.[A-Za-z]\w*)?"
    r"|peft(\.tuners(\.lora)?)?(\.[A-Za-z]\w*)?"
    r"|torch(\.[A-Za-z]\w*)*"
    r"|uvicorn"
)

# What stands in fl_app.simulation and fl_app.server.pulling, which are for that.
KNOWN = {
    "simulation.bundle": {"flwr.cli.build.build_fab_from_disk"},
    "simulation.executor": {
        "flwr.clientapp.utils",
        "flwr.simulation.app",
        "flwr.supercore.constant.TASK_TYPE_TO_APPIO_API_ADDRESS_ARG",
        "flwr.supercore.constant.TaskType",
        "flwr.supercore.superexec.executor.ExecutionSpec",
        "flwr.supercore.superexec.executor.LaunchResult",
        "flwr.supercore.superexec.executor.SubprocessExecutor",
        "flwr.superlink.cli.flwr_serverapp",
        "flwr.superlink.runtime.run_serverapp",
        "flwr.supernode.cli.flwr_clientapp",
        "flwr.supernode.runtime.run_clientapp",
        "flwr.supernode.runtime.run_clientapp.Error",
    },
    "simulation.loopback": {
        "flwr.common.serde.message_from_proto",
        "flwr.common.serde.message_to_proto",
        "flwr.supercore.task_identity.TaskIdentity",
        "flwr.supercore.task_identity.TaskIdentity.node_id",
        "flwr.supercore.task_identity.TaskIdentity.run_id",
        "flwr.supercore.task_identity.TaskIdentity.task_id",
    },
    "simulation.lost_turns": {
        "flwr.common.constant.ErrorCode",
        "flwr.server.superlink.fleet.vce.backend.raybackend",
        "flwr.server.superlink.fleet.vce.backend.raybackend.RayBackend",
        "ray",
        "ray.exceptions.RayError",
        "ray.exceptions.RayTaskError",
    },
    "simulation.private_superlink": {
        "flwr.superlink.cli.flower_superlink.flower_superlink",
        "uvicorn.protocols.http.auto.AutoHTTPProtocol",
        "uvicorn.run",
    },
    "simulation.ray_workers": {
        "connection._stub",
        "flwr.common.constant.SubStatus",
        "flwr.proto.runtime_pb2.PushTaskOutputRequest",
        "flwr.simulation.simulationio_connection.SimulationIoConnection",
        "flwr.supercore.constant.TaskType",
        "flwr.supercore.superexec.executor.ExecutionSpec",
        "flwr.supercore.superexec.executor.LaunchResult",
        "ray",
        "ray._private.node.Node",
        "ray.core.generated.common_pb2.Language",
        "ray.core.generated.node_manager_pb2.PrestartWorkersRequest",
        "ray.core.generated.node_manager_pb2_grpc.NodeManagerServiceStub",
    },
    "simulation.superexec": {
        "flwr.supercore.auth.load_superexec_auth_secret",
        "flwr.supercore.constant.TaskType",
        "flwr.supercore.superexec.run_superexec",
        "flwr.supercore.superexec.run_superexec.get_executor",
    },
    "server.pulling": {
        "flwr.app.message.make_message",
        "flwr.common.constant.ErrorCode",
        "flwr.common.constant.SUPERLINK_NODE_ID",
        "flwr.supercore.constant.SYSTEM_MESSAGE_TYPE",
        "flwr.supercore.inflatable.inflatable_object.get_object_body",
        "flwr.supercore.inflatable.inflatable_object.get_object_head_values_from_object_content",
        "flwr.supercore.inflatable.inflatable_utils",
        "flwr.superlink.grid.http_grid",
        "flwr.superlink.grid.http_grid.inflate_object_from_contents",
        "flwr.superlink.grid.http_grid.pull_objects",
        "HttpGrid._runtime_client",
    },
}
# What would be worse elsewhere.
EXCEPTIONS = {
    # Hydra sets values and reads files in one call, and reading takes most of its time.
    "config.composition": {"ConfigLoaderImpl._apply_overrides_to_config"},
    # Both ends weigh messages, as Flower itself serialises them: never by a formula.
    "wire.records": {
        "flwr.app.message.make_message",
        "flwr.common.constant.SUPERLINK_NODE_ID",
        "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects",
    },
    # An Error, which is documented, wants a code out of it.
    "client.words": {"flwr.common.constant.ErrorCode"},
    # PEFT has no other way to bring a layer of one's own that keeps B and A frozen.
    "adapters.lora_sb.layers": {
        "peft.tuners.lora.layer.LoraLayer",
        "peft.tuners.lora.layer.LoraVariant",
        "peft.tuners.lora.variants._register_frozen_peft_weight",
        "config._register_custom_module",
        "module._move_adapter_to_device_of_base_layer",
    },
    # PEFT's wrapper of a module that is trained whole is in no shorter path.
    "adapters.precision": {"peft.utils.ModulesToSaveWrapper"},
    # PEFT's own choice of modules by architecture, and its methods by name, are in no shorter path.
    "adapters.peft_methods.adapter": {
        "peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING",
        "peft.utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING",
        "peft.utils.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING",
        "torch.nn.modules.batchnorm._BatchNorm",
        "transformers.pytorch_utils.Conv1D",
    },
    # The linear layers of some architectures, and what remembers rows.
    "adapters.targets": {
        "torch.nn.modules.batchnorm._BatchNorm",
        "transformers.pytorch_utils.Conv1D",
    },
    # Which architectures have a model for a task is said nowhere else.
    "models.auto": {
        "AUTO[task.id]._model_mapping",
        # A head is drawn anew as transformers draws one that is missing.
        "model._init_weights",
        "tensor._is_hf_initialized",
    },
    # transformers reads special tokens into any text, and its tokenizers cannot be told otherwise.
    "tasks.at_labels": {"transformers.loss.loss_utils.ForCausalLMLoss"},
    "tasks.tokens": {"made._tokenizer"},
    # torch says of a tensor that it was changed nowhere else.
    "adapters.ligo.operator": {"p._version"},
    "pretraining.vt5": {"transformers.models.t5.modeling_t5.T5LayerCrossAttention"},
    # Numba's cache stands where others may write; and it has no public word for an instruction.
    "codecs.parts.compiled": {"numba.core.caching", "kernel._cache"},
    "codecs.parts.permute": {"numba.core.cgutils", "numba.core.registry", "numba.core.types"},
    # Nothing public says which modules mix rows of a batch, or which buffers are a module's own.
    "privacy.clipped_sum": {"torch.nn.modules.batchnorm._BatchNorm"},
    "privacy.module_state": {"module._buffers"},
    # A node's policy must name a message as Flower's own dispatch does.
    "client.rules": {"flwr.clientapp.client_app.DEFAULT_ACTION"},
    # A node keeps its files beside Flower's.
    "client.disk": {"flwr.supercore.utils.get_flwr_home"},
    # Only the grid's class says that nodes are simulated, and so that all of them will answer.
    "server.nodes": {"flwr.superlink.grid.InMemoryGrid"},
    # And only the code of an error says whether a client answered it or the simulator did.
    "server.replies": {
        "flwr.common.constant.ErrorCode",
        "flwr.superlink.grid.InMemoryGrid",
    },
    # Flower ends the process of a stopped run, and the run's summary has to be written before.
    "server_app": {"flwr.supercore.exit.add_exit_handler"},
    # Cryptography comes out of libraries, and Shamir's scheme for whole keys is in this one.
    "secure_aggregation.primitives": {
        "flwr.common.secure_aggregation.crypto.shamir.combine_shares",
        "flwr.common.secure_aggregation.crypto.shamir.create_shares",
    },
}


# An attribute is written behind a variable: this is the class of what that holds.
OWNERS = {
    "ConfigLoaderImpl._apply_overrides_to_config": (
        "hydra._internal.config_loader_impl.ConfigLoaderImpl"
    ),
    "AUTO[task.id]._model_mapping": "transformers.AutoModelForCausalLM",
    "HttpGrid._runtime_client": "flwr.superlink.grid.http_grid.HttpGrid",
    "config._register_custom_module": "peft.LoraConfig",
    "connection._stub": "flwr.simulation.simulationio_connection.SimulationIoConnection",
    "kernel._cache": "numba.core.dispatcher.Dispatcher",
    "made._tokenizer": "transformers.PreTrainedTokenizerFast",
    "model._init_weights": "transformers.PreTrainedModel",
    "module._buffers": "torch.nn.Module",
    "p._version": "torch.Tensor",
    "module._move_adapter_to_device_of_base_layer": "peft.tuners.lora.LoraLayer",
    "tensor._is_hf_initialized": "transformers.PreTrainedModel",  # which marks its tensors
}
TUPLES = {"_fields", "_asdict", "_replace"}  # documented, of named tuples


def insides(module: str) -> Iterator[str]:
    """Yield what ``module`` uses of other packages that these do not document."""
    tree = ast.parse(SOURCES[module].read_text())
    yield from (
        name
        for name in imported(module)
        if name.partition(".")[0] in SEEN_IN and not DOCUMENTED.fullmatch(name)
    )
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    own |= {n.attr for n in attributes if ast.unparse(n.value) in ("self", "cls", "super()")}
    for node in attributes:
        if re.fullmatch(r"_[a-z_]*[a-z]", node.attr) and node.attr not in own | TUPLES:
            owner = node.value
            of = owner.attr if isinstance(owner, ast.Attribute) else ast.unparse(owner)
            yield f"{of}.{node.attr}"
    yield from replaced(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"flwr(\.\w+)+", str(node.value)):
            yield from () if DOCUMENTED.fullmatch(node.value) else (node.value,)


def replaced(tree: ast.Module) -> Iterator[str]:
    """Yield names of other packages' modules to which a module assigns."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Name):
            modules[ast.unparse(node.target)] = modules.get(node.value.id, "fl_app")
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                of = (
                    modules.get(ast.unparse(one.value), "")
                    if isinstance(one, ast.Attribute)
                    else ""
                )
                if of.partition(".")[0] in SEEN_IN:
                    yield f"{of}.{one.attr}"


def test_the_insides_of_other_packages_are_known() -> None:
    found = {source.removeprefix("fl_app."): {*insides(source)} for source in SOURCES}
    assert {source: names for source, names in found.items() if names} == KNOWN | EXCEPTIONS


@pytest.mark.parametrize("name", SEEN_IN)
def test_the_insides_were_seen_in_this_version(name: str) -> None:
    assert version(name).partition("+")[0] == SEEN_IN[name]


@pytest.mark.parametrize("name", sorted(set().union(*KNOWN.values(), *EXCEPTIONS.values())))
def test_an_inside_is_still_there(name: str) -> None:
    if name not in OWNERS:
        module, _, attribute = name.rpartition(".")
        owner = pkgutil.resolve_name(module) if module else None
        # A property of a class may have no value yet; a module may not be imported yet.
        assert attribute in dir(type(owner)) or pkgutil.resolve_name(name)
        return
    owner, attribute = pkgutil.resolve_name(OWNERS[name]), name.rpartition(".")[2]
    if attribute in dir(owner):
        return
    written = [
        c
        for c in owner.__mro__
        if str(getattr(inspect.getmodule(c), "__file__", "")).endswith(".py")
    ]
    sources = [inspect.getsource(c) for c in written]
    assert any(re.search(rf"\b{attribute}\b", source) for source in sources)


def test_functions_that_the_executor_replaces_are_still_there() -> None:
    for places in executor.INSTALLS.values():
        for module, name in places:
            assert callable(pkgutil.resolve_name(f"{module}:{name}"))

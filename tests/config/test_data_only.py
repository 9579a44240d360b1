"""A run's overrides are data: what a submitter writes makes neither side run, fetch or read."""

import ast
import http.server
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app.aggregation.inner import inner_strategy
from fl_app.config import CONF_DIR, ConfigError, compose, data_only, identity, plain
from fl_app.config.data_only import FLOWER, FLOWERS
from fl_app.config.interpolation import resolved
from fl_app.data import table
from fl_app.preflight import check, check_node
from tests import audit
from tests.combinations import combinations

SECRET = "7f3c-marker-of-the-environment"


@pytest.fixture
def secret(monkeypatch) -> str:
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    return SECRET


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of an HTTP server of this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{found.server_port}", asked
        finally:
            found.shutdown()
            thread.join()


# ---- what was reproduced, and its siblings ------------------------------------------------------


FETCHES = (
    "strategy=fedavg '+strategy.inner.train_metrics_aggr_fn={{_target_: pandas.read_pickle, "
    'filepath_or_buffer: "{url}/x.pkl"}}\'',
    "strategy=fedavg '+strategy.inner.x=[{{_target_: pandas.read_pickle, "
    'filepath_or_buffer: "{url}/x.pkl"}}]\'',
    "'strategy.inner={{_target_: pandas.read_pickle, filepath_or_buffer: \"{url}/x.pkl\"}}'",
    "strategy=krum '++strategy.inner.strategy={{_target_: pandas.read_pickle, "
    'filepath_or_buffer: "{url}/x.pkl"}}\'',
    "'codec.up={{id: chain, links: [{{_target_: pandas.read_pickle, "
    'filepath_or_buffer: "{url}/x.pkl"}}]}}\'',
    "data=table task=causal_lm model=llama-tiny 'data.train.path=\"{url}/x.csv\"'",
    "data=table task=causal_lm model=llama-tiny 'data.train.path=\"zip://x.csv::{url}/x.zip\"'",
    "'model.path=\"{url}/model\"'",
    "'model.tokenizer=\"{url}/model\"'",
    "'hydra.searchpath=[\"{url}\"]'",
)


@pytest.mark.parametrize("overrides", FETCHES)
def test_no_override_makes_a_node_fetch(server, overrides: str) -> None:
    url, asked = server
    with pytest.raises(ConfigError):
        check_node(compose(overrides.format(url=url)))
    assert asked == []


def test_a_url_behind_a_path_is_a_part_of_its_name(server, tmp_path: Path) -> None:
    url, asked = server
    path = Path(f"{tmp_path}/x.csv::{url}/x.csv")
    check_node(compose(f"data=table task=causal_lm model=llama-tiny 'data.train.path=\"{path}\"'"))
    with pytest.raises(FileNotFoundError):
        table.source("data.train.path", str(path))
    path.parent.mkdir(parents=True)
    path.write_text("a\nhere\n")
    assert table.source("data.train.path", str(path))["train"][0] == {"a": "here"}
    assert asked == []


RESOLVERS = (
    "oc.env:SECRET_TOKEN", "oc.env:SECRET_TOKEN,x", "oc.decode:${oc.env:SECRET_TOKEN}",
    "oc.create:${oc.env:SECRET_TOKEN}", "oc.select:seed", "oc.deprecated:seed", "now:%Y",
    "hydra:runtime.cwd", "python_version:", "oc.dict.keys:data", "ours:SECRET_TOKEN", " seed",
    "oc.env: SECRET_TOKEN", "data[seed]", "a.${oc.env:SECRET_TOKEN}", "${output.name}", ":", "",
)  # fmt: skip
PLACES = (
    "'output.name=\"{}\"'", "'output.name={}'", "'output.name=x-{}'", "'+strategy.inner.foo={}'",
    "'+data.train.columns={{a: \"{}\"}}' data=table", "'codec.up={{id: \"{}\"}}'",
    "'adapter.modules_to_save=[\"{}\"]'", "'experiment={}'", "'strategy.inner._target_={}'",
    "'output.name=\\{}'", "'output.name=\"\\\\{}\"'", "'output.name=\\\\\\{}'",
    "'data.partitioner={}'", "'+model.config.visual={{a: [{{b: \"{}\"}}]}}'", "'resume={}'",
    "'logger=[tensorboard, \"{}\"]'", "'output.name=str({})'", "'codec=json_str(\"{}\")'",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_no_resolver_is_called_wherever_it_stands(secret: str, place: str, resolver: str) -> None:
    called = []
    OmegaConf.register_new_resolver("ours", called.append, replace=True)
    try:
        with pytest.raises(ConfigError) as caught:
            compose(place.format(f"${{{resolver}}}"))
    finally:
        OmegaConf.clear_resolver("ours")
    assert secret not in str(caught.value)
    assert called == []


@pytest.mark.parametrize(
    "overrides",
    [
        "output.name=$ 'resume=\"${output.name}{oc.env:SECRET_TOKEN}\"'",
        "'output.name=\"{oc.env:SECRET_TOKEN}\"' 'output.dir=$' "
        "'resume=\"${output.dir}${output.name}\"'",
        "'output.name=a$' 'output.dir=\"${output.name}{oc.env:SECRET_TOKEN}\"'",
        "'output.name=\"$\"' 'resume=${output.name}${output.name}'",
    ],
)  # fmt: skip
def test_no_resolver_is_put_together_from_halves(secret: str, overrides: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert secret not in str(caught.value)


def test_what_lies_in_a_file_is_text(secret: str) -> None:
    found = {"model": {"path": "${oc.env:SECRET_TOKEN}"}, "output": {}}
    assert identity(found) == {"model": {"path": "${oc.env:SECRET_TOKEN}"}}
    assert plain(OmegaConf.create(found)) == found


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("hydra.searchpath=[pkg://tests]", "hydra.searchpath"),
        ("'hydra.searchpath=[\"file:///tmp\"]'", "hydra.searchpath"),
        ("+hydra.job.env_set.A=1", "hydra.job.env_set.A"),
        ("hydra/launcher=joblib", "hydra/launcher"),
        ("/hydra/launcher=joblib", "hydra/launcher"),
        ("'+hydra={searchpath: [x]}'", "hydra"),
        ("'++={hydra: {searchpath: [x]}}'", "not a key"),
        ("experiment=../../x", "conf/experiment"),
        ("experiment=../experiment/thin", "conf/experiment"),
        ("adapter=/etc/passwd", "conf/adapter"),  # for a model it is model.path
        ("model=..", "conf/model"),
        ("logger=[tensorboard,../codec/nf4]", "conf/logger"),
        ("+sweep=../codec/nf4", "conf/sweep"),
        ("+experiment@hydra=thin", "experiment@hydra"),
        ("codec@model.config=nf4", "codec@model.config"),
        ("codec=nf4,sign", "takes one value"),
        ("'seed=choice(1,2)'", "takes one value"),
        ("'rounds=range(1,1000000000)'", "takes one value"),
        (f"'output.name={'[' * 40}'", "brackets"),
        (f"output.name={'x' * 40_000}", "characters"),
        ("$x=1", "not a key"),
    ],
)
def test_a_run_sets_nothing_of_hydra_and_names_no_file(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        compose(overrides)


TARGETS = (
    "os.system", "shutil.rmtree", "torch.load", "pandas.read_pickle", "builtins.exec",
    "flwr.serverapp.strategy.Strategy", "flwr.serverapp.strategy.fedavg.FedAvg",
    "flwr.serverapp.strategy.FedXgbBagging", "strategies", "strategies.robust", "strategies.",
    "strategies.robust.np", "strategies.robust._in_float64", "strategies.robust.Callable",
    "strategies.flora.np.ndarray", "strategies..flora.FLoRA", "fl_app.aggregation.inner.Cohort",
    "tests.audit.Watch", "FedAvg", "",
    "fl_app.run.main", "strategies.nope.Nope", "strategies/robust.Robust",
)  # fmt: skip


OUTER, NESTED = "strategy.inner", "strategy.inner.strategy"
WRONG = [*map(repr, TARGETS), "null", "1", "[a]", "{a: b}"]


@pytest.mark.parametrize(
    ("target", "key"),
    combinations(
        product(WRONG, [OUTER, NESTED]),
        suite=[*product(WRONG, [NESTED]), *product(WRONG[::9], [OUTER])],
    ),
)
def test_only_strategies_are_built(target: str, key: str) -> None:
    with pytest.raises(ConfigError):
        compose(f'strategy=krum "{key}._target_={target}"')


NAMES = ["_target_", "_partial_", "_args_", "_recursive_", "_convert_"]
PLACES = [
    "strategy=fedadam '+strategy.inner.tau={{{}: [1]}}'", "'+strategy.inner.x=[{{{}: 1}}]'",
    "'codec.up={{id: fp32, {}: 1}}'", "'codec.up={{id: chain, links: [{{id: fp32, {}: 1}}]}}'",
    "+data.partitioner.{}=x", "+model.config.{}=x", "'+model.config.visual={{a: {{{}: x}}}}'",
    "data=table +data.train.columns.{}=x", "data=table '+data.train.drop={{x: [{{{}: 1}}]}}'",
    "'optimizer.betas=[{{{}: x}}]'", "'adapter.modules_to_save=[{{{}: x}}]'",
    "strategy=fedavg +strategy.inner.{}.a=1", "+{}=x", "+strategy.{}=x",
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "name"),
    combinations(
        product(PLACES, NAMES),
        suite=[*product(PLACES, NAMES[:1]), *product(PLACES[:1], NAMES[1:])],
    ),
)
def test_hydras_names_stand_nowhere_else(place: str, name: str) -> None:
    with pytest.raises(ConfigError):
        compose(place.format(name))


def test_every_strategy_of_conf_may_be_built_and_no_class_but_a_strategy() -> None:
    import flwr.serverapp.strategy as flower

    for path in (CONF_DIR / "strategy").glob("*.yaml"):
        inner_strategy(compose(f"strategy={path.stem} clients_per_round=7"))
    assert all(issubclass(getattr(flower, name), flower.Strategy) for name in FLOWERS)
    assert flower.__name__ == FLOWER
    with pytest.raises(ConfigError, match="not a Flower strategy"):  # a class, but of another kind
        check(compose("strategy.inner._target_=fl_app.aggregation.inner.Cohort"))


@pytest.mark.parametrize(
    "option",
    [
        "auto_map={AutoConfig: evil.Config}", "_attn_implementation=kernels-community/x",
        "attn_implementation=flash_attention_2", "_experts_implementation=x", "use_kernels=true",
        "quantization_config={quant_method: hqq}", "torch_dtype=float16", "architectures=[X]",
        "trust_remote_code=true", "_name_or_path=a/b", "visual={backbone: a}",
        "use_timm_backbone=1", "use_mamba_kernels=true",
        "hidden_act=org/kernel", "spatial='http://x'", "visual={a: [{b: org/x}]}",
        "kernel_config={a: b}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ["vt5-tiny", "llama-tiny task=causal_lm data=word_problems"])
def test_a_models_config_names_no_code_and_no_other_checkpoint(model: str, option: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.config"):
        compose(f'model={model} "+model.config.{option}"')


# ---- interpolation ------------------------------------------------------------------------------


def test_plain_interpolation_is_as_omegaconf_would_have_it() -> None:
    raw = {
        "a": {"b": [1, {"c": "x"}], "d": "${a.b}", "e": "${.b.1.c}-${..f}", "g": "${a.d.1.c}"},
        "f": 1.5, "h": "${a}", "i": None, "j": "${i}", "k": "costs $5 {a}", "l": "${h.e}",
    }  # fmt: skip
    expected = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    assert resolved(raw) == expected


@given(
    st.recursive(
        st.sampled_from(["${a}", "${b}", "${a.b}", "${.a}", "${..b}", "x${a}y", "z", 1, None]),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("abc"), part),
        max_leaves=12,
    )
)
def test_it_ends_and_agrees_with_omegaconf(tree) -> None:
    root = {"a": tree, "b": "b"}
    try:
        found = resolved(root)
    except ConfigError:
        return  # it leads back to itself, or nowhere: asserted with OmegaConf's words elsewhere
    assert found == OmegaConf.to_container(OmegaConf.create(root), resolve=True)


@pytest.mark.parametrize("kind", ["text", "list"])
def test_a_short_text_does_not_make_a_large_configuration(kind: str) -> None:
    bomb: dict = {"k0": "lol"}
    for depth in range(40):
        twice = f"${{k{depth}}}${{k{depth}}}" if kind == "text" else [f"${{k{depth}}}"] * 2
        bomb[f"k{depth + 1}"] = twice
    with pytest.raises(ConfigError, match="more than"):
        resolved(bomb)


# ---- the node's check, watched ------------------------------------------------------------------

HONEST = (
    "experiment=fedavg_lora", "experiment=thin", "experiment=fed_sb", "strategy=fedadam",
    "strategy=krum clients_per_round=7", "rounds=3", "seed=1", "optimizer.lr=1e-3", "codec=sign",
    "codec.up={id:chain,links:[{id:delta},{id:int8,block:32}]}", "model=vt5-tiny-visual",
    "data=table data.train.path=a/b data.test.path=a/b task=causal_lm model=llama-tiny",
    "adapter=full", "'output.name=run-${seed}'", "privacy=dp_sgd", "clients_per_round=3",
    "strategy=fedavg_dp_server", "model.config={spatial:fourier}", "logger=[tensorboard]",
)  # fmt: skip
HOSTILE = st.sampled_from((
    *(text.format(url="http://127.0.0.1:9") for text in FETCHES),
    *(place.format("${oc.env:SECRET_TOKEN}") for place in PLACES),
    "strategy.inner._target_=fl_app.server.coded.Coded", "strategy.inner._target_=os.system",
    "strategy=fedavg '+strategy.inner.arrayrecord_key={_target_:torch.load,f:/etc/passwd}'",
    "model.path=/etc", "model.tokenizer=/proc/self", "model.visual_path=/etc", "resume=/etc",
    "data=table data.train.path=/etc/passwd", "data=table data.train.path=pandas",
    "data=pfl_docvqa data.path=/etc", "model.path=embedded:../../../../../etc", "output.dir=/etc",
    "logger=mlflow logger.mlflow.tracking_uri=http://127.0.0.1:9", "logger=wandb",
    "codec.up={id:kmeans,centroids:100000000000}", "codec.up={id:nf4,block:-1}",
    "codec.up={id:chain,links:[{id:chain,links:[{id:delta}]}]}", "codec.up={id:nf4,block:[1]}",
    "adapter.target_modules='(a+)+$'", "+model.config.model_type=../../x",
))  # fmt: skip
KEYS = st.sampled_from((
    "strategy.inner._target_", "strategy.inner.x", "model.path", "model.tokenizer", "codec.up",
    "codec.up.id", "data.partitioner", "data.partitioner.id", "model.config.x", "model.config",
    "output.dir", "resume", "experiment", "hydra.run.dir", "task.prompt", "adapter.target_modules",
))  # fmt: skip
PIECES = st.sampled_from((
    "${oc.env:SECRET_TOKEN}", "${oc.env:HOME}", "$", "{", "}", "${", "\\", "_target_:", "os.system",
    "http://127.0.0.1:9/x", "/etc/passwd", "../../", "[", "]", ",", "id:", "${seed}", "a", ":", "'",
    "pickle.loads", "zip://a::", "pkg://tests", "strategies.robust.Robust", "@", " ", "=",
))  # fmt: skip
MADE = st.builds(
    lambda plus, key, pieces: f"'{plus}{key}={''.join(pieces)}'",
    st.sampled_from(("", "+", "++")), KEYS, st.lists(PIECES, max_size=6),
)  # fmt: skip
OVERRIDES = st.lists(st.sampled_from(HONEST) | HOSTILE | MADE, max_size=4).map(" ".join)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(OVERRIDES)
def test_whatever_is_asked_the_nodes_check_only_reads_what_it_may(secret: str, overrides) -> None:
    with audit.watched() as watch:
        try:
            check_node(compose(overrides))
        except ConfigError as error:
            refused = str(error)
        else:
            refused = ""
    assert watch.seen == []
    assert secret not in refused


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with audit.watched() as watch:
        (tmp_path / "x").read_text()
        socket.socket().close()
        pickle.loads(pickle.dumps(Path))  # noqa: S301
        subprocess.run([sys.executable, "-c", ""], check=True)
        CONF_DIR.joinpath("config.yaml").read_text()
    kinds = {seen.partition(" ")[0] for seen in watch.seen}
    assert {"open", "socket.__new__", "pickle.find_class", "subprocess.Popen"} <= kinds
    assert not any("config.yaml" in seen for seen in watch.seen)


def test_a_node_imports_none_of_the_servers_halves() -> None:
    """By what the sources say at the top: all that the ClientApp imports, and what these import."""
    found, todo = set(), {"fl_app.client_app"}
    while todo:
        name = todo.pop()
        found.add(name)
        path = CONF_DIR.parent / name.replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if "Named(" in source.read_text():  # imported when it is looked up
            named = re.findall(r'"(fl_app(?:\.\w+)+)(?::\w+)?"', source.read_text())
            todo |= {*filter(is_module, named)} - found
        for part in ast.parse(source.read_text()).body:
            names = {alias.name for alias in part.names} if isinstance(part, ast.Import) else set()
            if isinstance(part, ast.ImportFrom) and part.module:
                inside = {f"{part.module}.{alias.name}" for alias in part.names}
                names = {part.module, *filter(is_module, inside)}
            todo |= {one for one in names if one.startswith(("fl_app", "strategies"))} - found
    assert "fl_app.preflight" in found
    halves = ("strategies", "fl_app.aggregation", "fl_app.server")
    assert not [name for name in found if name.startswith(halves)]


def is_module(name: str) -> bool:
    path = CONF_DIR.parent / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("half", ["inner", "local"])
@pytest.mark.parametrize("value", ["os.system", [["_target_", "os.system"]], 3])
def test_a_half_of_a_method_that_is_no_mapping_is_refused(half: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"strategy.{half}=.* should be of type mapping"):
        data_only.check({"strategy": {"inner": None, half: value}})

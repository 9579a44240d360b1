"""The configuration: what composes, and what is refused with which words."""

import shlex
from itertools import product
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from fl_app.config import CONF_DIR, ConfigError, compose, plain
from fl_app.config.keys import RECIPES
from fl_app.preflight import check
from tests.combinations import combinations

PATHS = ("data.train.path", "data.test.path")
ROBUST = ("fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan")
NEEDS = {
    "adapter=ligo": "adapter.config={num_layers:4}",
    "adapter=lq_lora": "output.base=copy",
    "strategy=fedep": "federation.max_update_rms=null",
    "strategy=fedkseed": "codec=fp32",
    "strategy=feedsign": "codec=fp32",
    "strategy=fl_tac": "strategy.inner.features=0 clients_per_round=4",
    "strategy=sfprompt": "adapter=peft adapter.method=PROMPT_TUNING "
    "adapter.args.num_virtual_tokens=5 task=causal_lm model=llama-tiny data=word_problems",
    "strategy=sign_mask": "adapter=sign_mask",
    "strategy=aquila": "clients_per_round=10",
    "strategy=flasc": "codec=fp32",
    "strategy=onebit_adam": "codec=fp32",
    "strategy=fedzip": "codec=fedzip",
    "strategy=fed_sb": "adapter=lora_sb",
    "strategy=quantization_aware": "codec=grid",
    "strategy=fedavg_dp_client": "codec=fp32",
    "strategy=secure_fedavg": "codec=modular clients_per_round=4",
    **{f"strategy={name}": "clients_per_round=7" for name in ROBUST},
}
EXPERIMENTS = sorted(p.stem for p in (CONF_DIR / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    cfg = compose(f"experiment={experiment}")
    assert cfg.experiment == experiment
    if cfg.data.id == "pfl_docvqa":  # which has to be converted first
        with pytest.raises(ConfigError, match=r"data\.path"):
            check(cfg)
        cfg = compose(f"experiment={experiment} data=docvqa_mini")
    elif missing := [key for key in PATHS if OmegaConf.select(cfg, key, default="") is None]:
        with pytest.raises(ConfigError, match=missing[0]):  # which has to be given
            check(cfg)
        cfg = compose(f"experiment={experiment} {' '.join(f'{key}=a/b' for key in missing)}")
    check(cfg)


@pytest.mark.parametrize("group", ["adapter", "codec", "model", "optimizer", "strategy"])
def test_every_group_option_composes(group: str) -> None:
    for option in (CONF_DIR / group).glob("*.yaml"):
        chosen = f"{group}={option.stem}"
        if "quantization" in (cfg := compose(chosen)).model:  # a language model: other rows
            chosen += " task=causal_lm data=table data.train.path=a/b data.test.path=a/b"
            chosen += " model.path=a/b" if cfg.model.path is None else ""
        check(compose(f"{chosen} {NEEDS.get(chosen, '')}".strip()))


def test_the_default_is_the_nf4_entry() -> None:
    cfg = compose("")
    assert (cfg.experiment, cfg.rounds, cfg.local_epochs, cfg.clients_per_round) == (
        "nf4_single", 4, 12, 1,
    )  # fmt: skip
    assert [link.id for link in cfg.codec.up.links] == ["delta", "nf4"]


def test_an_override_beats_the_experiment() -> None:
    cfg = compose("experiment=fedavg_full strategy=fedadam codec=nf4 rounds=3")
    assert cfg.rounds == 3
    assert cfg.strategy.inner._target_.endswith("FedAdam")
    assert cfg.adapter.id == "full"


@pytest.mark.parametrize("experiment", ["scallion", "sign_mask", "aquila"])
def test_a_codec_by_name_is_that_of_its_file_whatever_the_experiments_was(experiment: str) -> None:
    assert compose(f"experiment={experiment} codec=nf4").codec == compose("codec=nf4").codec
    assert compose(f"experiment={experiment}").codec != compose("codec=nf4").codec
    more = "codec.up={id:int8} codec=uniform_entropy codec.error=0.3"
    found = compose(f"experiment={experiment} {more}").codec
    assert (found.up.id, found.down.inner.links[1].error) == ("int8", 0.3)


@pytest.mark.parametrize("experiment", ["thinnest", "fedkseed", "rate_control"])
def test_a_strategy_by_name_is_that_of_its_file_whatever_the_experiments_was(
    experiment: str,
) -> None:
    word = "strategy=fedavg"
    assert compose(f"experiment={experiment} {word}").strategy == compose(word).strategy
    assert compose(f"experiment={experiment}").strategy != compose(word).strategy


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ("", "nf4_single"),
        ("seed=1 rounds=2 optimizer.lr=1e-3", "nf4_single"),
        ("strategy=fedavg", "custom"),
        ("seed=1 codec=fp16", "custom"),
        ("~experiment", "custom"),
        ("experiment=fedavg_lora strategy=fedadam", "fedavg_lora"),
    ],
)
def test_a_run_has_the_label_of_an_experiment_only_if_it_is_one(overrides, label) -> None:
    assert compose(overrides).experiment == label


@pytest.mark.parametrize(
    "overrides",
    [
        "seed=1 experiment=fedavg_lora seed=2 strategy=fedadam ++strategy.inner.tau=0.1",
        "optimizer.lr=2.5 optimizer.lr=1.5 ++strategy.inner.colour=red",
        "~experiment 'model.path=${data.id}' codec=thin codec.reference=broadcast",
    ],
)
def test_it_is_what_hydra_composes_in_one_step(overrides: str) -> None:
    """Selected files are read once for all values: what one run sets stays out of the next."""
    words = shlex.split(overrides)
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        wanted = plain(OmegaConf.to_container(hydra.compose("config", words), resolve=True))
    for group, key in (name.split(".") for name in RECIPES):
        del wanted[group][key]
    for _ in range(2):
        found = plain(compose(overrides))
        assert found | {"experiment": ""} == wanted | {"experiment": ""}
        overrides += " seed=3"
        wanted["seed"] = 3


def test_quotes_and_blanks_as_in_a_shell() -> None:
    assert compose("'output.name=my run' rounds=2").output.name == "my run"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("strategy=nope", "single_client"),
        ("codec=zip", "nf4"),
        ("experiment=nope", "fedavg_full"),
        ("foo=1", "rounds"),
        ("+foo=1", "rounds"),
        ("adapter.rank=3", "alpha"),
        ("model.pth=x", "path"),
        ("strategy.inner.wieghted=1", "strategy.inner"),
        ("+strategy.inner.foo=2", "foo"),
        ("rounds=abc", "rounds='abc' should be of type int"),
        ("rounds=0", "rounds=0 should be greater than 0"),
        ("rounds=null", "type int"),
        ("rounds", "not a Hydra override"),
        ("optimizer.lr=true", "type float"),
        ("optimizer.warmup=2", "[0, 1]"),
        ("optimizer.schedule=exp", "cosine"),
        ("strategy.sampler=best", "cyclic"),
        ("federation.device=tpu", "cuda"),
        ("clients_per_round=11", "federation.clients=10"),
        ("seed=-1", "seed"),
        ("target.value=high", "type float"),
        ("codec.down.links=[{id:zip}]", "nf4"),
        ("codec.down.links=[{id:nf4,blok:3}]", "block"),
        ("codec.down.links=[{id:delta}]", "codec"),
        ("strategy.inner._target_=os.system", "os.system"),
        ("strategy.inner._target_=collections.OrderedDict", "not a Flower strategy"),
        ("strategy='unclosed", "quot"),
        ("model.configx=3", "max_length"),
        ("+model.configx=3", "'model.configx' is not an option"),
        ("foo=1", "'experiment'"),
        ("+foo=1", "'experiment'"),
        ("strategy.inner=fedavg", "type mapping"),
        ("model.config=3", "type mapping"),
        ("optimizer.schedule=[cosine]", "type str"),
        ("rounds=${nope}", "nope"),
        ("rounds=???", "rounds has no value"),
        ("~rounds", "rounds cannot be removed"),
        ("~strategy", "strategy cannot be removed"),
        ("~strategy.inner", "strategy.inner cannot be removed"),
    ],
)
def test_a_wrong_override_names_key_and_alternatives(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("key", "open_"),
    [
        ("strategy.inner.momentum", True),
        ("model.config.colour", True),
        ("codec.up.block", True),
        ("codec.upper", False),
        ("model.configx", False),
        ("adapter.rank", False),
        ("rank", False),
    ],
)
def test_a_plus_is_advised_only_where_it_may_stand(key: str, open_: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(f"{key}=3")
    assert (f"use +{key}=3" in str(caught.value)) == open_


@pytest.mark.parametrize(
    "path", ["/a,b", "/a=b", "/ü", "/a(1)", "/a#b", "/a[1]", "/{a}", '/"', "/'"]
)
def test_a_path_that_hydra_does_not_read_is_shown_in_quotes(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["data=table", f"data.test.path={path}"])
    (word,) = shlex.split(str(caught.value).partition("stands in quotes: ")[2])
    assert compose(["data=table", word]).data.test.path == path


def test_arguments_of_a_partitioner_and_columns_need_no_plus() -> None:
    cfg = compose(
        "data=table data.partitioner.id=by_column data.partitioner.column=x data.test.columns.q=a"
    )
    assert cfg.data.partitioner == {"id": "by_column", "column": "x"}
    assert cfg.data.test.columns == {"q": "a"}


@pytest.mark.parametrize("key", ["federation.num_clients", "num_clients"])
def test_a_misspelt_key_is_answered_with_keys_of_its_own_group(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["data.partitioner={id: dirichlet, column: kind, alpha: 1.0}", f"{key}=4"])
    assert "federation.clients" in str(caught.value) or "'federation'" in str(caught.value)
    assert "Keys of data" not in str(caught.value)


def test_a_failed_compose_leaves_hydra_usable() -> None:
    with pytest.raises(ConfigError):
        compose("strategy=nope")
    assert compose("rounds=7").rounds == 7


def test_every_option_has_its_default_in_conf() -> None:
    """No key of the composed configuration is made up in Python, but the experiment's name."""
    text = "".join(path.read_text() for path in Path(CONF_DIR).rglob("*.yaml"))
    for key in compose(""):
        assert f"{key}:" in text or f"/{key}:" in text


@pytest.mark.parametrize(
    ("codec", "plus"),
    combinations(
        product(["fp32", "nf4", "sign", "uniform", "thin"], ["", "+", "++"]),
        suite=[("nf4", ""), ("sign", "+"), ("thin", "++")],
    ),
)
def test_a_whole_spec_replaces_the_one_that_is_there(codec: str, plus: str) -> None:
    before = compose(f"codec={codec}").codec
    cfg = compose(f"codec={codec} '{plus}codec.up={{id: chain, links: [{{id: int8, block: 32}}]}}'")
    assert plain(cfg.codec.up) == {"id": "chain", "links": [{"id": "int8", "block": 32}]}
    assert cfg.codec.down == before.down
    assert plain(compose(f"codec={codec} codec.down={{id:fp16}}").codec.down) == {"id": "fp16"}


@pytest.mark.parametrize(
    ("words", "key", "there"),
    [
        ("data.train.columns={a:b} data.train.columns.c=d", "data.train.columns",
         {"a": "b", "c": "d"}),
        ("data.train.columns.c=d data.train.columns={a:b}", "data.train.columns", {"a": "b"}),
        ("data.train.columns.c=d data.train.columns={}", "data.train.columns", {}),
        ("data.partitioner={id:by_column,column:a} data.partitioner.column=b", "data.partitioner",
         {"id": "by_column", "column": "b"}),
        ("data.partitioner.id=by_column data.partitioner={column:a}", "data.partitioner",
         {"id": "by_column", "column": "a"}),
        ("data.partitioner={id:by_column,column:a} ~data.partitioner.column", "data.partitioner",
         {"id": "by_column"}),
        ("codec.up={id:nf4,block:64} codec.up.block=32", "codec.up", {"id": "nf4", "block": 32}),
        ("adapter=peft adapter.args.a=1 adapter.args={b:2} adapter.args.c=3", "adapter.args",
         {"b": 2, "c": 3}),
    ],
)  # fmt: skip
def test_overrides_of_an_open_key_count_in_their_order(words: str, key: str, there) -> None:
    assert plain(OmegaConf.select(compose(f"data=table {words}"), key)) == there


def test_an_empty_mapping_takes_away_what_conf_has() -> None:
    assert plain(compose("data=snli").data.train.drop) == {"label": [None]}
    assert plain(compose("data=snli data.train.drop={}").data.train.drop) == {}


def test_columns_and_partitioners_are_given_as_mappings() -> None:
    data = compose(
        "data=table data.train.columns={question:instruction,answer:output} "
        "data.train.drop={label:[maybe]} data.partitioner={id:by_column,column:provider}"
    ).data
    assert plain(data.train.columns) == {"question": "instruction", "answer": "output"}
    assert plain(data.train.drop) == {"label": ["maybe"]}
    assert plain(data.partitioner) == {"id": "by_column", "column": "provider"}

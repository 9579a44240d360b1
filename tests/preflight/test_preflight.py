"""What is refused before anything is started: every value that needs no model to be judged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from fl_app.adapters import full_rules
from fl_app.adapters.lora_sb import start
from fl_app.aggregation import checks as aggregation
from fl_app.config import CONF_DIR, OPEN, ConfigError, compose
from fl_app.data import checks as data
from fl_app.preflight import JOINTS, check

POSITIVE = "greater than 0"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("rounds=0", POSITIVE),
        ("adapter.r=0", POSITIVE),
        ("adapter.dropout=1", "[0, 1)"),
        ("adapter.dropout=nan", "[0, 1)"),
        ("adapter.target_modules=[]", "a list of names"),
        ("adapter.target_modules=''", "a list of names"),
        ("adapter.target_modules=3", "a list of names"),
        ("adapter.modules_to_save=spatial", "a list of names"),
        ("data.id=docvqa", "docvqa_mini"),
        ("data.seed=-1", "2^63"),
        ("data.clients=3", "federation.clients=10"),
        ("data.providers_per_client=0", POSITIVE),
        ("data.documents_per_provider=-1", POSITIVE),
        ("data.test_documents=0", POSITIVE),
        ("data.test_documents=401", "at most 400"),
        ("data.validation_documents=-1", "0 (none) or a whole number"),
        ("data.validation_documents=1.5", "of type int"),
        ("data.unseen_providers=0", POSITIVE),
        ("data.unseen_documents_per_provider=0", POSITIVE),
        ("data.partitioner.id=shards", "by_column"),
        ("data.partitioner.id=dirichlet", "data.partitioner.alpha"),
        ("data.partitioner.id=iid", "~data.partitioner.column"),
        ("data.partitioner.column=words", "provider"),
        ("data.partitioner={id:size,partition_sizes:[5,5]}", "there are 10 clients"),
        ("data.partitioner.id=shard", "num_shards_per_partition or"),
        ("~data.partitioner.column", "data.partitioner.column"),
        ("evaluate_clients_per_round=-1", "at least 0"),
        ("model.max_length=0", POSITIVE),
        ("model.max_answer_length=-1", POSITIVE),
        ("model.path=/no/such/folder", "absolute path"),
        ("model.path=./folder", "absolute path"),
        ("model.path=''", "absolute path"),
        ("model.path=embedded:nope", "model.path"),
        ("model.path=google-t5/t5-base", "model.sha256"),
        ("model.sha256=abc", "SHA-256"),
        (f"model.sha256={'0' * 64}", "model.sha256"),
        ("+model.config.colour=1", "model.config keys: colour"),
        ("+model.config.spatial=round", "fourier"),
        ("optimizer.lr=nan", POSITIVE),
        ("optimizer.lr=inf", "finite"),
        ("optimizer.eps=-1", "at least 0"),
        ("optimizer.betas=0.9", "a list of two numbers"),
        ("optimizer.betas=[0.9]", "a list of two numbers"),
        ("optimizer.betas=[0.9,1]", "[0, 1)"),
        ("optimizer.betas=[a,b]", "a list of two numbers"),
        ("optimizer.max_grad_norm=0", POSITIVE),
        ("optimizer.weight_decay=-0.1", "at least 0"),
        ("optimizer.warmup=nan", "[0, 1]"),
        ("optimizer=shampoo optimizer.graft=adam", "adamw"),
        ("optimizer=shampoo optimizer.exponent=0.25", "null or less than 0"),
        ("optimizer=shampoo optimizer.decay=1.1", "[0, 1]"),
        ("optimizer=shampoo optimizer.root_interval=0", POSITIVE),
        ("optimizer=shampoo optimizer.block_size=0", POSITIVE),
        ("output.dir=''", "path of a folder"),
        ("output.name=''", "name of a folder"),
        ("output.name=..", "name of a folder"),
        ("output.name=../other", "name of a folder"),
        ("output.name=a/b", "name of a folder"),
        ("output.name=[a]", "name of a folder"),
        ("clients_per_round=2", "strategy=single_client"),
        ("strategy=fedadam strategy.inner.eta=abc", "number, of type float"),
        ("strategy=fedadam strategy.inner.eta=nan", "number, of type float"),
        ("strategy=fedadam strategy.inner.eta=null", "number, of type float"),
        ("strategy=fedadam strategy.inner.eta=true", "number, of type float"),
        ("strategy=fedavg +strategy.inner.min_train_nodes=1.5", "number, of type int"),
        ("strategy=fedavg strategy.inner.weighted_by_key=size", "num-examples"),
        ("logger=mlflow logger.mlflow.tracking_uri='sqlite:////tmp/x.db'", "https://"),
        ("logger=mlflow logger.mlflow.tracking_uri='mysql+evil://host/x'", "https://"),
        ("logger=mlflow logger.mlflow.tracking_uri='file:///tmp'", "https://"),
        ("logger=mlflow logger.mlflow.tracking_uri=/tmp", "https://"),
        ("target.value=nan", "a number or null"),
        ("target.value=true", "type float"),
    ],
)
def test_a_bad_value_names_its_key_and_what_it_should_be(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides))
    key = overrides.rpartition(" ")[2].lstrip("+~").partition("=")[0]
    for text in (key.rpartition(".")[2], says):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        "adapter.target_modules=[q,v] adapter.modules_to_save=[spatial] adapter.dropout=0.5",
        "data.partitioner.id=iid ~data.partitioner.column",
        "data.partitioner.column=document",
        "model=t5-base",
        "+model.config.spatial=fourier model.config.spatial=none",
        "optimizer.betas=[0,0.5] optimizer.weight_decay=0.1 optimizer.lr=1",
        "optimizer=shampoo optimizer.graft=none optimizer.exponent=-0.5 optimizer.decay=0.9",
        "output.name=run.1 output.dir=../elsewhere",
        "output.name=7",
        "strategy=fedadam strategy.inner.eta=1 clients_per_round=2",
        "strategy=fedavg strategy.inner.weighted_by_key=one clients_per_round=10",
        "evaluate_clients_per_round=10",
        "federation.clients=2 data.test_documents=80 data.validation_documents=0",
        "target.value=1 target.metric=accuracy",
    ],
)
def test_a_good_value_passes(overrides: str) -> None:
    check(compose(overrides))


def test_a_folder_with_a_checkpoint_passes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check(compose(f"model=t5-base model.path={tmp_path}"))


def keys_of(node, path: str) -> Iterator[str]:
    for key in node:
        yield f"{path}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            yield from keys_of(child, f"{path}{key}.")


WITH_RULES = (*JOINTS, aggregation, full_rules, start)


def ruled() -> set[str]:
    tables = [*(getattr(one, "RULES", ()) for one in WITH_RULES), data.SOURCES]
    return {key for rules in tables for _, keys in rules for key in keys}


def test_every_rule_is_for_a_key_that_exists() -> None:
    known = {*keys_of(OmegaConf.load(CONF_DIR / "config.yaml"), "")}
    for path in CONF_DIR.glob("*/*.yaml"):
        known |= {*keys_of(OmegaConf.load(path), f"{path.parent.name}.")}
    assert {*ruled(), *(key for one in WITH_RULES for key in getattr(one, "CHOICES", ()))} <= known


def test_every_list_has_a_rule() -> None:
    def lists(node, path: str = ""):
        for key in node:
            name = f"{path}{key}"
            if OmegaConf.is_list(node[key]):
                yield name
            elif OmegaConf.is_dict(node[key]) and name not in OPEN:
                yield from lists(node[key], f"{name}.")

    assert {"optimizer.betas", "adapter.modules_to_save"} <= set(lists(compose(""))) <= ruled()

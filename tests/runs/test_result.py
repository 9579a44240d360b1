"""Results that last: from a run's folder to a file, and from the file to the same run again."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from benchmarks import gallery
from fl_app.config import CONF_DIR, compose, plain
from fl_app.report.comparison import comparable
from fl_app.runs import result
from fl_app.runs.configurations import ADDED, digest
from fl_app.runs.read import Run, read
from fl_app.runs.result import ResultError
from tests.finished_runs import finished

SEEDED = sorted(
    path.stem
    for path in (CONF_DIR / "strategy").glob("*.yaml")
    if re.search(r"(seed|master): \$\{seed\}", path.read_text(encoding="utf-8"))
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "one"
    return read(finished(folder, "codec=sign rounds=2 logger=none", 3, validated=(0.2, 0.5, 0.9)))


def written(folder: Path, content: Any) -> Path:
    path = folder / "one.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_result_is_the_run_again(run: Run, tmp_path: Path) -> None:
    """With every number that a table or picture shows."""
    found = result.read(written(tmp_path, result.to_text(result.of_run(run))))
    again = found.run()
    assert (found.seed, found.is_current, found.digest) == (3, True, digest(run.config))
    assert found.overrides == "codec=sign rounds=2"  # neither seed nor where results went
    assert again.metrics == run.metrics
    assert again.ledger.sent() == run.ledger.sent()
    assert again.bits_per_scalar_up() == run.bits_per_scalar_up()
    assert digest(again.config) == digest(run.config)
    (one,), (other,) = comparable([run]), comparable([again])
    for rows in (one, other):
        rows["configurations"][0].pop("rounds")  # who took part is in the ledger alone
    assert one == other
    assert result.of_run(again) | {"rounds": 0} == found.content | {"rounds": 0}


def test_a_result_names_no_machine_and_no_place(run: Run) -> None:
    text = result.to_text(result.of_run(run))
    assert str(run.path.parent) not in text
    content = json.loads(text)
    assert {*content["machine"]} == {
        "processor", "cores", "memory_gib", "system", "device", "load",
    }  # fmt: skip
    assert content["until_target"] == {"round": 2, "bytes": run.ledger.sent(until=2)}
    assert content["best"]["selected_on"] == "validation"


@pytest.mark.parametrize("words", ["output.name=x data.train.path=/home/me/x.csv", "a='{b: /x}'"])
def test_a_run_of_a_file_of_this_machine_leaves_no_result(run: Run, words: str) -> None:
    with pytest.raises(ResultError, match="names a file of this machine"):
        result.of_run(Run(run.path, run.config, run.summary | {"overrides": words}, [], run.ledger))


def test_a_run_that_has_not_ended_leaves_no_result(tmp_path: Path) -> None:
    unfinished = read(finished(tmp_path / "run", status="unfinished"))
    with pytest.raises(ResultError, match=r"no status, .*has not ended"):
        result.of_run(unfinished)


def places(content: Any, found: tuple = ()) -> list[tuple]:
    """Return the way to every value in a JSON that is no mapping and no list."""
    if isinstance(content, dict):
        return [way for key in content for way in places(content[key], (*found, key))]
    if isinstance(content, list):
        return [way for i in range(len(content)) for way in places(content[i], (*found, i))]
    return [found]


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_that_was_edited_is_refused(run: Run, tmp_path: Path, data) -> None:
    content = copy.deepcopy(result.of_run(run))
    ways = [way for way in places(content) if isinstance(at(content, way), int | float)]
    way = data.draw(st.sampled_from(ways))
    at(content, way[:-1])[way[-1]] += 1
    with pytest.raises(ResultError):
        result.read(written(tmp_path, content))


def at(content: Any, way: tuple) -> Any:
    for key in way:
        content = content[key]
    return content


def drop(key: str) -> Callable[[dict], object]:
    return lambda content: content.pop(key)


def put(*way_and_value: Any) -> Callable[[dict], object]:
    *way, key, value = way_and_value
    return lambda content: at(content, tuple(way)).__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("format"), "it has no format"),
        (put("format", 2), "has format 2, this version reads 1"),
        (drop("machine"), "it has no machine"),
        (drop("rounds"), "it has no rounds"),
        (put("config", "digest", "12"), "config.digest='12' should be a SHA-256"),
        (put("seed", "1"), "seed='1' should be a whole number"),
        (put("rounds", 0), "rounds=0 should be a list"),
        (put("rounds", 1, "sent", "train up", "message_bytes", -1), "message_bytes=-1 should be"),
        (put("rounds", 1, "sent", {"train sideways": {}}), "should be one of train up,"),
        (put("rounds", 1, "round", 2), "its rounds have the numbers"),
        (put("bytes", "total", 7), "its bytes should be {"),
        (put("final", "test", "anls", 0.99), "its final should be {"),
        (put("until_target", "round", 1), "its until_target should be {"),
        (put("machine", "cores", 128), "its checksum is another one"),
        (put("status", "failed"), "status='failed' should be completed"),
    ],
)
def test_a_file_that_is_no_result_is_refused(run: Run, tmp_path: Path, change, says: str) -> None:
    content = copy.deepcopy(result.of_run(run))
    change(content)
    with pytest.raises(ResultError) as error:
        result.read(written(tmp_path, content))
    assert says in str(error.value)
    assert "one.json is not the result of a run" in str(error.value)


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_value_of_another_type_is_refused_by_name_or_does_no_harm(
    run: Run, tmp_path: Path, data
) -> None:
    """Also where the checksum fits, as in a file that a program has written."""
    content = json.loads(json.dumps(result.of_run(run)))  # no two places are one object
    content["privacy"] = {
        "epsilon": 1.0, "delta": 0.1, "noise_multiplier": 1.0, "unit": "row", "noise": "secret",
    }  # fmt: skip
    way = data.draw(st.sampled_from([way[:n] for way in places(content) for n in (1, 2, 9)]))
    wrong = st.sampled_from(
        [None, "x", "", [], [3], {}, {"x": 1}, -1, 0.5, True, 10**400, {"": {}}]
    )
    at(content, way[:-1])[way[-1]] = data.draw(wrong)
    try:
        found = result.read(written(tmp_path, result.sealed(content)))
    except ResultError as error:
        assert "one.json is not the result of a run: " in str(error)  # noqa: PT017
        what = str(error).rpartition("is not the result of a run: ")[2]
        assert any(name in what for name in (str(way[0]), "its "))
        return
    assert gallery.page(gallery.current([found]), 0, [])
    assert isinstance(found.seed, int)


def test_a_run_that_failed_leaves_no_result(tmp_path: Path) -> None:
    failed = read(finished(tmp_path / "run", status="failed"))
    with pytest.raises(ResultError, match="its status is failed"):
        result.of_run(failed)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\xff"])
def test_text_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ResultError, match="is not the result of a run"):
        result.read(written(tmp_path, text))


def test_a_digest_is_of_what_makes_a_configuration() -> None:
    one = digest(compose("experiment=nf4_single"))
    for same in ("", "seed=7 logger=none output.name=x target.value=0.3", "codec=nf4 seed=1"):
        assert digest(compose(same)) == one
    for other in ("codec=fp16", "rounds=5", "data.validation_documents=0", "adapter.r=4"):
        assert digest(compose(other)) != one


@pytest.mark.parametrize("method", SEEDED)
def test_a_seed_of_a_method_that_is_the_runs_makes_no_other_configuration(method: str) -> None:
    one, other = (compose(f"experiment={method} seed={seed}") for seed in (0, 7))
    assert digest(one) == digest(other)
    own = "seed" if "seed" in one.strategy.inner else "master"
    assert digest(compose(f"experiment={method} strategy.inner.{own}=3")) != digest(one)


def test_an_option_that_came_later_does_not_change_a_digest() -> None:
    now = compose("data.validation_documents=0").copy()
    before = compose("data.validation_documents=0").copy()
    for cfg in (now, before):
        cfg._set_flag("readonly", False)
        cfg._set_flag("struct", False)
    assert "data.validation_documents" in ADDED
    del before.data["validation_documents"]
    assert digest(before) == digest(now)


def test_rules_for_columns_make_another_configuration_where_there_are_some() -> None:
    before = OmegaConf.to_container(compose("data=table task=gsm8k"), resolve=True)
    for key in ("formats", "empty"):
        del before["data"][key]
    assert digest(before) == digest(compose("data=table task=gsm8k"))
    assert digest(before) != digest(compose("data=table task=gsm8k +data.formats.a=.2f"))
    assert digest(before) != digest(compose("data=table task=gsm8k +data.empty.a=none"))


def test_a_group_of_options_that_came_later_does_not_change_a_digest() -> None:
    words = "model=llama-tiny task=word_problems data=table"
    now = plain(compose(words))
    before = copy.deepcopy(now)
    del before["data"]["validation"]
    assert digest(before) == digest(now)
    assert digest(compose(f"{words} data.validation.limit=3")) == digest(now)  # it means nothing
    assert digest(compose(f"{words} data.validation.share=0.1")) != digest(now)

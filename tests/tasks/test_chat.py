"""Laws of chat: what is trained of a conversation, with the templates of known families."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fl_app import data, tasks
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.preflight import check_values
from fl_app.preflight.inferred import with_inferred
from tests import architectures

# Shortened from the templates that the models of these families ship, with their own tokens.
LOOP = "{% for m in messages %}"
TEMPLATES = {
    "chatml": (
        LOOP + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "chatml with marks": (
        LOOP + "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
        "{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama 3": (
        "{{ bos_token }}" + LOOP + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}" + LOOP + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
        "{{ ' ' + m['content'] + eos_token }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
        "{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + LOOP +
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "zephyr": (
        LOOP + "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "qwen 3": (  # earlier answers lose their thinking; the last one always has some
        LOOP + "{% set c = m['content'] %}{% if m['role'] == 'assistant' %}"
        "{% set c = c.split('</think>')[-1].lstrip('\n') if not loop.last else "
        "(c if '</think>' in c else '<think>\n\n</think>\n\n' + c) %}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}  # fmt: skip
MARKS = [
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>"),
]
SPECIAL = [*architectures.SPECIAL, *MARKS]
TALK = [("user", "Hi, who?"), ("assistant", "Me."), ("user", "2+2?"), ("assistant", "It is 4.")]


def _tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    made = architectures.tokenizer("<s> $A")
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = template
    return made


def _task(template: str | None, overrides: str = "") -> Any:
    cfg = compose(f"task=chat model.max_length=4000 model.max_answer_length=400 {overrides}")
    config = architectures.config("llama", vocab_size=300)
    return tasks.build(cfg, _tokenizer(template), config)


def _row(talk: list[tuple[str, str]]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in talk]}


def _trained(task: Any, row: dict[str, Any]) -> list[list[str]]:
    """Return the runs of trained tokens of each sequence, as text."""
    batch = task.training([row])
    found = []
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        runs: list[list[int]] = [[]]
        for token, label in zip(ids, labels, strict=True):
            assert label in (IGNORED, token)
            if label != IGNORED:
                runs[-1].append(token)
            if label in (IGNORED, task.end) and runs[-1]:
                runs.append([])
        found.append([task.tokenizer.decode(run) for run in runs if run])
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_loss_is_on_the_answers_and_their_ends_alone(name: str) -> None:
    task = _task(TEMPLATES[name])
    end = task.tokenizer.convert_ids_to_tokens(task.end)
    said = [f"{content}{end}" for role, content in TALK if role == "assistant"]
    if name == "mistral":
        said = [f" {one}" for one in said]
    if name == "qwen 3":
        empty = "<think>\n\n</think>\n\n"
        assert _trained(task, _row(TALK)) == [[empty + said[0]], [empty + said[1]]]
    else:
        assert _trained(task, _row(TALK)) == [said]


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_what_the_template_renders(name: str) -> None:
    task = _task(TEMPLATES[name])
    row = _row([*TALK, ("user", "not answered")])
    whole = task.tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False)
    ids, mask = (task.training([row])[key][-1] for key in ("input_ids", "attention_mask"))
    assert task.tokenizer.decode(ids[mask.bool()]) == whole.rstrip("\n")
    plain = task.tokenizer(whole.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert ids[mask.bool()].tolist() == plain  # of single bytes: cutting a text changes none


def test_marks_of_generation_change_nothing() -> None:
    one, other = (
        _task(TEMPLATES[key]).training([_row(TALK)]) for key in ("chatml", "chatml with marks")
    )
    assert all(one[key].equal(other[key]) for key in one)


TEXTS = st.lists(st.sampled_from([*SPECIAL, "a", " ", "[INST]"]), min_size=1, max_size=4)
HOSTILE = TEXTS.map("".join).map(lambda text: f"x{text}y")


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=10)
@given(st.lists(HOSTILE, min_size=4, max_size=4))
def test_a_message_is_never_a_special_token(name: str, texts: list[str]) -> None:
    """And the prompt of a score is how the sequence that is trained begins."""
    task = _task(TEMPLATES[name])
    roles = [role for role, _ in TALK]
    row, calm = _row([*zip(roles, texts, strict=True)]), _row([(role, "xy") for role in roles])
    special = {*task.tokenizer.convert_tokens_to_ids(SPECIAL)}
    found, wanted = (task.training([one]) for one in (row, calm))
    for ids, mask, others, length in zip(
        found["input_ids"], found["attention_mask"],
        wanted["input_ids"], wanted["attention_mask"], strict=True,
    ):  # fmt: skip
        own = [one for one in ids[mask.bool()].tolist() if one in special]
        assert own == [one for one in others[length.bool()].tolist() if one in special]
    last = found["input_ids"][-1][found["attention_mask"][-1].bool()].tolist()
    text = task.tokenizer.decode(last)
    assert all(one in text for one in (texts[0], texts[3]))
    prompt = task.prompts([row])["input_ids"][0].tolist()
    assert last[: len(prompt)] == prompt
    assert found["labels"][-1][len(prompt) :].ne(IGNORED).sum() == len(last) - len(prompt)
    assert task.references(row) == [texts[3]]


def test_sharegpt_is_the_same_conversation() -> None:
    names = {"user": "human", "assistant": "gpt"}
    other = {"conversations": [{"from": names[role], "value": text} for role, text in TALK]}
    one = _task(TEMPLATES["chatml"]).training([_row(TALK)])
    two = _task(TEMPLATES["chatml"], "task.messages=conversations").training([other])
    assert all(one[key].equal(two[key]) for key in one)


def test_the_end_of_a_long_conversation_is_kept() -> None:
    task = _task(TEMPLATES["chatml"])
    whole = task.training([_row(TALK)])["labels"][0].tolist()
    task.max_length, task.max_answer_length = 30, 10
    assert task.training([_row(TALK)])["labels"][0].tolist() == whole[-40:]
    assert task.prompts([_row(TALK)])["input_ids"].shape[1] == 30


@pytest.mark.parametrize("name", ["llama 3", "mistral", "gemma"])
def test_a_start_token_is_kept_where_a_conversation_is_cut(name: str) -> None:
    task = _task(TEMPLATES[name])
    whole, asked = task.training([_row(TALK)]), task.prompts([_row(TALK)])["input_ids"][0]
    ids, labels = (whole[key][0].tolist() for key in ("input_ids", "labels"))
    task.max_length, task.max_answer_length = 20, 10
    cut = task.training([_row(TALK)])
    start = [task.tokenizer.bos_token_id]
    assert len(ids) > 30
    assert ids[:1] == start
    assert cut["input_ids"][0].tolist() == start + ids[-29:]
    assert cut["labels"][0].tolist() == [IGNORED, *labels[-29:]]
    assert task.prompts([_row(TALK)])["input_ids"][0].tolist() == start + asked[-19:].tolist()


@pytest.mark.parametrize(
    ("talk", "says"),
    [
        ([("user", "a")], "the assistant says nothing"),
        ([("assistant", "a")], "user and assistant in turn"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "user and assistant in turn"),
        ([("user", "a"), ("assistant", " ")], "message 2, of the role 'assistant', has no text"),
        ([("user", "a"), ("tool", "b"), ("user", "c")], "the assistant says nothing"),
        ([("tool", "b"), *TALK], "user and assistant in turn"),
        ([("user", "a"), ("tool", "b"), ("user", "c"), ("assistant", "d")], "in turn"),
        ([("judge", "a"), *TALK], "message 1 has the role 'judge': a role should be one of system"),
        (
            [("system", "a"), *TALK],
            "message 1, of the role 'system': System role not supported",
        ),
    ],
)
def test_rows_that_are_no_conversation_are_counted(talk: Any, says: str) -> None:
    rows = Dataset.from_list([_row(TALK), _row(talk), _row(talk)])
    with pytest.raises(FaultError) as caught:
        _task(TEMPLATES["gemma"]).check(rows)
    assert "2 of 3 rows have no conversation in the column 'messages'" in str(caught.value)
    assert says in str(caught.value).partition("Row 2: ")[2]
    assert "says nothing" not in caught.value.said


PARTS = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]


@pytest.mark.parametrize("name", TEMPLATES)
def test_parts_of_text_are_one_text(name: str) -> None:
    talk = [TALK[0], TALK[1], ("user", PARTS), TALK[3]]
    one, two = (_task(TEMPLATES[name]).training([_row(rows)]) for rows in (TALK, talk))
    assert all(one[key].equal(two[key]) for key in one)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "message 1, of the role 'user', has no text"),
        ([{"type": "image", "text": None}], "message 1 has a part of the type 'image': only parts"),
        ([*PARTS, {"type": "audio", "text": "a"}], "message 1 has a part of the type 'audio'"),
        ([{"type": "text", "text": None}], "message 1 has a part of the type 'text'"),
    ],
)
def test_parts_that_are_no_text_are_refused(parts: Any, says: str) -> None:
    answer = [{"type": "text", "text": "a"}]
    with pytest.raises(FaultError, match=f"1 of 2 rows .*Row 2: {says}"):
        _task(TEMPLATES["chatml"]).check(
            Dataset.from_list(
                [_row([("user", one), ("assistant", answer)]) for one in (PARTS, parts)]
            )
        )


CALL = [("user", "2+2?"), ("assistant", "add(2, 2)"), ("tool", "4"), ("assistant", "It is 4.")]


def test_messages_of_tools_are_read_where_the_template_writes_them() -> None:
    task = _task(TEMPLATES["chatml"])
    end = "<|im_end|>"
    assert _trained(task, _row(CALL)) == [[f"add(2, 2){end}", f"It is 4.{end}"]]
    assert "tool\n4" in task.tokenizer.decode(task.training([_row(CALL)])["input_ids"][0])
    for name, says in (
        ("mistral", "refuses message 3, of the role 'tool': Only user and assistant roles"),
        ("skips", "leaves out message 3, of the role 'tool'"),
    ):
        skips = "{% if m['role'] != 'tool' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
        task = _task({**TEMPLATES, "skips": LOOP + skips}[name])
        with pytest.raises(FaultError, match="Row 1: the chat template " + says):
            task.check(Dataset.from_list([_row(CALL)]))


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_calls_that_are_no_text_are_refused(key: str) -> None:
    row = _row(CALL)
    row["messages"][1][key] = [{"name": "add", "arguments": "[2, 2]"}]
    with pytest.raises(FaultError, match=f"message 2 has {key}, which are not read"):
        _task(TEMPLATES["chatml"]).check(Dataset.from_list([row]))


@pytest.mark.parametrize(
    ("template", "overrides", "says"),
    [
        (None, "", "no chat template: set task.template=plain"),
        (LOOP + "{{ m['content'] }}{% endfor %}", "", "ends an answer with no special token"),
        ("{{ raise_exception('no') }}", "", "cannot be used: the chat template refuses message 1,"),
        ("{{ messages.__class__.__mro__ }}", "", "cannot be used"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "", "maximum recursion depth"),
        (LOOP + "{% for i in range(10 ** 9) %}{% endfor %}{% endfor %}", "", "cannot be used"),
    ],
)
def test_a_template_that_cannot_be_trained_is_refused(
    template: str | None, overrides: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        _task(template, overrides)


def test_a_built_in_template_needs_none_of_the_tokenizer() -> None:
    for name, end in (("plain", "</s>"), ("chatml", "<|im_end|>")):
        task = _task(None, f"task.template={name}")
        assert _trained(task, _row(TALK)) == [[f"Me.{end}", f"It is 4.{end}"]]
        assert task.tokenizer.chat_template  # goes with an exported model
    with pytest.raises(ConfigError, match=r"task.template='{{x}}' should be null, chatml or plain"):
        check_values(compose("task=chat 'task.template=\"{{x}}\"'"))


def test_alpaca_is_the_default_of_causal_lm() -> None:
    assert compose("task=alpaca").task == compose("task=causal_lm").task


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_chat_file_trains_the_embedded_decoder(kind: str, tmp_path: Path) -> None:
    """Its column is found, it is kept in the cache, and a client trains on it."""
    row = {"conversations": [{"from": "human", "value": "what is 3 and 4?"},
                             {"from": "gpt", "value": "7"}]}  # fmt: skip
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list([row] * 12)
    rows.to_json(path) if kind == "jsonl" else rows.to_parquet(path)
    words = f"model=llama-tiny task=chat task.template=plain data=table data.train.path={path}"
    words, found = with_inferred(f"{words} target.metric=accuracy federation.clients=2")
    assert "task.messages=conversations" in [one.shown for one in found]
    cfg = compose(words)
    check_values(cfg)
    read = data.load(cfg.data, 0)
    assert json.dumps(read["train"][0]) == json.dumps(row)
    if kind == "jsonl":
        session = open_session(words)
        session.task.check(read["train"])
        batch = session.task.training(read["train"].to_list()[:2])
        assert session.model(**batch).loss.isfinite()
        assert len(session.task.predict(session.model, read["test"])) == len(read["test"])


def test_rows_of_chat_in_another_task_say_which_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(_row(TALK)))
    words = (
        f"model=llama-tiny task=causal_lm data=table data.train.path={path} data.test.path={path}"
    )
    with pytest.raises(ConfigError, match="those of conversations: use task=chat"):
        check_values(compose(f"{words} target.metric=accuracy"))

"""What `thinwire check` counts in the rows of a client."""

from typing import Any

import pytest
from datasets import Dataset

from fl_app import tasks
from fl_app.command.check import described
from fl_app.config import compose
from fl_app.preflight.survey import survey
from tests import architectures

ALPACA = [{"instruction": "a b c d", "output": "e"}, {"instruction": "a", "output": "e f g h"}]
NLI = [
    {"premise": "a b c d", "hypothesis": "e", "label": "neutral"},
    {"premise": "a", "hypothesis": "b", "label": "neutral"},
]
CHAT = [
    {"messages": [{"role": role, "content": text} for role, text in talk]}
    for talk in (
        [("user", "a b"), ("assistant", "b"), ("user", "c d"), ("assistant", "d")],
        [("user", "a"), ("assistant", "b")],
    )
]
# A template that writes earlier answers otherwise: a conversation is several sequences.
SHOUTS = (
    "{% for m in messages %}{{ (m['content'] | upper if m['role'] == 'assistant' and not loop.last "
    "else m['content']) + eos_token }}{% endfor %}"
)
PLAIN = """'task.prompt="{instruction}"' 'task.response="{output}"'"""
LONG = 100  # characters: each is a token or more


@pytest.mark.parametrize(
    ("name", "words", "rows", "cut"),
    [
        ("llama", f"task=causal_lm {PLAIN}", ALPACA, 2),
        ("t5", f"task=seq2seq {PLAIN}", ALPACA, 2),
        ("bert", "task=sequence_classification", NLI, 1),
        ("llama", "task=chat", CHAT, 1),
    ],
)
def test_rows_that_lose_a_part_are_counted(name: str, words: str, rows: Any, cut: int) -> None:
    tokenizer = architectures.tokenizer("$A </s>" if name == "t5" else "<s> $A")
    tokenizer.chat_template = SHOUTS
    for limits, expected in (((6, 4), cut), ((LONG, LONG), 0)):
        asked = "model=huggingface model.path=a/b model.max_length={} model.max_answer_length={}"
        cfg = compose(f"{asked.format(*limits)} {words}")
        task = tasks.build(cfg, tokenizer, architectures.config(name))
        found = survey(task, "train", Dataset.from_list(rows))
        assert found.cut == expected
        assert ("cut at model.max_length" in described(found)) == bool(expected)

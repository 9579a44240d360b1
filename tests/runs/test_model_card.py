"""What a model card says of how its folder is loaded."""

import pytest

from fl_app.config import compose
from fl_app.runs.base_model import Base
from fl_app.runs.model_card import GENERATE, use

HERE = Base(None, None, "0" * 64, "the embedded decoder")


@pytest.mark.parametrize(
    ("experiment", "is_virtual"), [("sfprompt", True), ("forgetting", False), ("ia3", False)]
)
def test_virtual_tokens_are_neither_merged_nor_generated_from_by_peft(
    experiment: str, is_virtual: bool
) -> None:
    said = use(compose(f"experiment={experiment} task=word_problems"), HERE)
    assert (GENERATE in said) == is_virtual
    assert ("thinwire merge" in said) != is_virtual
    assert "PeftModel.from_pretrained" in said

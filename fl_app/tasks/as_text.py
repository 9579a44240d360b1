"""Predictions as texts for people."""

import json
from typing import Any


def as_text(prediction: Any) -> str:
    """Return a prediction, or what is right, as text: what is none is written as JSON."""
    return prediction if isinstance(prediction, str) else json.dumps(prediction, ensure_ascii=False)

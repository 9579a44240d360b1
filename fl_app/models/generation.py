"""What of a checkpoint's generation_config.json counts: the tokens that an answer starts with."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig
from transformers.utils import cached_file

FILE = "generation_config.json"

# T5, BART and mBART need them. Everything else, such as sampling, penalties and limits, is ignored.
STARTS = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")


def unwrapped(model: Any) -> Any:
    """Return the model of transformers, also from PEFT's wrapper around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def greedy_config(own: GenerationConfig, **options: Any) -> GenerationConfig:
    """Return a config of greedy answers that has only ``STARTS`` of a checkpoint's ``own``.

    Parameters
    ----------
    own : GenerationConfig
        The checkpoint's.
    **options
        Of `GenerationConfig`.
    """
    starts = {name: getattr(own, name, None) for name in STARTS}
    return GenerationConfig(do_sample=False, num_beams=1, **starts, **options)


def replacement(source: str) -> GenerationConfig | None:
    """Return a config to use instead of a checkpoint's own, where transformers refuses that.

    Parameters
    ----------
    source : str
        A folder or hub id.

    Returns
    -------
    GenerationConfig or None
        ``STARTS`` and the tokens of end and padding; None if the checkpoint's own can be used, or
        it has none.
    """
    try:
        GenerationConfig.from_pretrained(source)
    except OSError:
        return None
    except (TypeError, ValueError):
        said = json.loads(Path(str(cached_file(source, FILE))).read_text(encoding="utf-8"))
        names = (*STARTS, "eos_token_id", "pad_token_id")
        return GenerationConfig(**{name: said.get(name) for name in names})
    return None

"""Documents with questions as tensors, and answers back from a model.

All questions of a document share one pass of the encoder (``document`` maps a question to its
page) when the model's ``prompt`` is "decoder"; with "encoder", T5's own form, every question
has a page of its own, and the pages of a document share its picture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerFast

from fl_app.data.invoices.pictures import pixel_values
from fl_app.data.padding import IGNORED, pad
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration

NO_BOX = [0, 0, 0, 0]  # of padding and special tokens
PROMPT_BOX = [0, 0, 1000, 1000]  # of a question before the page, as in the competition's code
PREDICT_DOCUMENTS = 16  # a batch of predict(); bounds its memory, does not change the answers


class Collator:
    """Turns rows (see ``fl_app.data``) into arguments of ``VT5ForConditionalGeneration.forward``.

    Args:
        tokenizer: the model's own.
        model_config: decides where the question goes (``prompt``) and the special tokens.
        max_length: encoder tokens of a page; what is beyond is cut off.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, model_config: VT5Config, max_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.model_config = model_config
        self.max_length = max_length
        self.start = model_config.decoder_start_token_id
        self.end: int = model_config.eos_token_id  # type: ignore[assignment]
        self.pad: int = model_config.pad_token_id  # type: ignore[assignment]

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Tensors of a training step: the pages, ``document`` [questions], ``decoder_input_ids``
        and ``labels`` [questions, tokens]; the loss is on the first accepted answer and the end.
        """
        batch = self._pages(rows)
        answers = self._ids([accepted[0] for row in rows for accepted in row["answers"]])
        pairs = list(zip(self._prompts(rows), answers, strict=True))
        # Padding on the right is never seen by an earlier position of a causal decoder.
        decoder_input_ids = pad([prompt + answer for prompt, answer in pairs], self.pad)
        labels = pad(
            [[IGNORED] * (len(prompt) - 1) + answer + [self.end] for prompt, answer in pairs],
            IGNORED,
        )
        return {**batch, "decoder_input_ids": decoder_input_ids, "labels": labels}

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Tensors to generate from: the pages, ``document`` [questions], and
        ``decoder_input_ids``, ``decoder_attention_mask`` [questions, tokens], padded on the left:
        T5 sees differences of positions only, so the padding changes nothing.
        """
        prompts = self._prompts(rows)
        ids = pad(prompts, self.pad, left=True)
        mask = pad([[1] * len(prompt) for prompt in prompts], 0, left=True)
        return {**self._pages(rows), "decoder_input_ids": ids, "decoder_attention_mask": mask}

    def encode_words(self, words: Sequence[Sequence[str]]) -> BatchEncoding:
        """Token ids of pages given as words, padded on the right and cut at ``max_length``."""
        return self.tokenizer(
            [list(page) for page in words],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )

    def _pages(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` [pages, tokens], ``bbox`` [pages, tokens, 4]; for a
        model that sees pictures also ``pixel_values`` [rows, 3, height, width] and ``picture``
        [pages].
        """
        words: list[list[str]] = []
        boxes: list[list[list[int]]] = []
        document: list[int] = []
        picture: list[int] = []
        for index, row in enumerate(rows):
            if self.model_config.prompt == "decoder":
                document += [len(words)] * len(row["questions"])
                words.append(row["words"])
                boxes.append(row["boxes"])
                picture.append(index)
                continue
            for question in row["questions"]:
                document.append(len(words))
                before = f"question: {question} context:".split()
                words.append([*before, *row["words"]])
                boxes.append([PROMPT_BOX] * len(before) + list(row["boxes"]))
                picture.append(index)
        encoding = self.encode_words(words)
        batch = {
            "input_ids": encoding["input_ids"],
            "attention_mask": encoding["attention_mask"],
            "bbox": spread(encoding, boxes, NO_BOX),
            "document": torch.tensor(document),
        }
        if self.model_config.visual is not None:
            batch["pixel_values"] = pixel_values(rows, self.model_config.visual)
            batch["picture"] = torch.tensor(picture)
        return batch

    def _prompts(self, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        """What the decoder is given of each question: its start, then the question or nothing."""
        questions = [question for row in rows for question in row["questions"]]
        if self.model_config.prompt == "encoder":
            return [[self.start] for _ in questions]
        return [[self.start, *ids] for ids in self._ids(questions)]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=self.max_length
        )["input_ids"]


def spread(encoding: BatchEncoding, values: Sequence[Sequence[Any]], empty: Any) -> Tensor:
    """Values of words as values of their tokens, [pages, tokens, ...].

    Args:
        encoding: of pages given as words.
        values: one per word of each page.
        empty: the value of padding and special tokens.
    """
    return torch.tensor(
        [
            [empty if word is None else page[word] for word in encoding.word_ids(index)]
            for index, page in enumerate(values)
        ]
    )


@torch.inference_mode()
def predict(
    model: VT5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    collator: Collator,
    rows: Sequence[dict[str, Any]] | Dataset,
    max_answer_length: int,
) -> list[str]:
    """Greedy answers, one string per question in the order of ``rows``.

    Args:
        model: the model, or a PEFT model around it; its training mode is restored.
        max_answer_length: tokens of an answer at most.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    answers: list[str] = []
    for first in range(0, len(rows), PREDICT_DOCUMENTS):
        last = min(first + PREDICT_DOCUMENTS, len(rows))
        prompts = collator.prompts([rows[i] for i in range(first, last)])
        batch: dict[str, Any] = {key: value.to(device) for key, value in prompts.items()}
        generated = model.generate(
            **batch, max_new_tokens=max_answer_length, do_sample=False, num_beams=1
        )
        after_prompt = generated[:, batch["decoder_input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(after_prompt, skip_special_tokens=True)
    model.train(was_training)
    return [answer.strip() for answer in answers]

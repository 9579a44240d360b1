"""Documents with questions as tensors, and the answers that a model generates.

When the model's ``prompt`` is "decoder", all questions of a document share one pass of the encoder
(``document`` maps a question to its page). With "encoder", T5's own form, every question has a page
of its own, and the pages of a document share its picture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerFast

from fl_app.data.invoices.pictures import pixel_values
from fl_app.data.padding import IGNORED, pad
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.tasks.evaluation import Rows, batches, evaluating, greedy
from fl_app.tasks.tokens import Tokens

NO_BOX = [0, 0, 0, 0]  # of padding and special tokens
PROMPT_BOX = [0, 0, 1000, 1000]  # of a question before the page, as in the competition's code


class Collator:
    """Turns rows (see ``fl_app.data``) into arguments of ``VT5ForConditionalGeneration.forward``.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        The model's own.
    model_config : VT5Config
        Decides where the question is (``prompt``), and the special tokens.
    max_length : int
        Encoder tokens of a page at most; the rest is cut.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, model_config: VT5Config, max_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.tokens = Tokens(tokenizer)
        self.model_config = model_config
        self.max_length = max_length
        self.start = model_config.decoder_start_token_id
        self.end: int = model_config.eos_token_id  # type: ignore[assignment]
        self.pad: int = model_config.pad_token_id  # type: ignore[assignment]

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the tensors of a training step.

        They are those of the pages and ``document`` [questions]; ``decoder_input_ids`` and
        ``labels`` [questions, tokens]. The loss is on the first accepted answer and the end token.
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
        """Return the tensors to generate from.

        They are those of the pages and ``document`` [questions]; ``decoder_input_ids`` and
        ``decoder_attention_mask`` [questions, tokens], padded on the left. T5 sees only differences
        of positions, so the padding changes nothing.
        """
        prompts = self._prompts(rows)
        ids = pad(prompts, self.pad, left=True)
        mask = pad([[1] * len(prompt) for prompt in prompts], 0, left=True)
        return {**self._pages(rows), "decoder_input_ids": ids, "decoder_attention_mask": mask}

    def encode_words(self, words: Sequence[Sequence[str]]) -> BatchEncoding:
        """Return the token ids of pages of words, padded on the right and cut at ``max_length``."""
        return self.tokens(
            [list(page) for page in words],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )

    def _pages(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the tensors of the encoder, and ``document`` [questions].

        They are ``input_ids``, ``attention_mask`` [pages, tokens], ``bbox`` [pages, tokens, 4]; for
        a model that sees pictures also ``pixel_values`` [rows, 3, height, width] and ``picture``
        [pages]; for one that compresses them ``question`` [questions, tokens].
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
            "bbox": per_token(encoding, boxes, NO_BOX),
            "document": torch.tensor(document),
        }
        if self.model_config.visual is not None:
            batch["pixel_values"] = pixel_values(rows, self.model_config.visual)
            batch["picture"] = torch.tensor(picture)
        if self.model_config.quecc is not None:
            asked = [question for row in rows for question in row["questions"]]
            batch["question"] = pad(self._ids(asked), self.pad)
        return batch

    def _prompts(self, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Return the decoder's prompt of each question: its start, then the question or nothing."""
        questions = [question for row in rows for question in row["questions"]]
        if self.model_config.prompt == "encoder":
            return [[self.start] for _ in questions]
        return [[self.start, *ids] for ids in self._ids(questions)]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokens(
            texts, add_special_tokens=False, truncation=True, max_length=self.max_length
        )["input_ids"]


def per_token(encoding: BatchEncoding, values: Sequence[Sequence[Any]], empty: Any) -> Tensor:
    """Return for each token the value of its word, [pages, tokens, ...].

    Parameters
    ----------
    encoding : BatchEncoding
        Of pages given as words.
    values : sequence of sequences
        One value per word of each page.
    empty
        The value of padding and special tokens.
    """
    return torch.tensor(
        [
            [empty if word is None else page[word] for word in encoding.word_ids(index)]
            for index, page in enumerate(values)
        ]
    )


def predict(
    model: VT5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    collator: Collator,
    rows: Rows,
    max_answer_length: int,
) -> list[str]:
    """Return greedy answers, one string per question in the order of ``rows``.

    Parameters
    ----------
    model : VT5ForConditionalGeneration
        The model, or a PEFT model around it; its mode is restored.
    max_answer_length : int
        Tokens of an answer at most.
    """
    answers: list[str] = []
    with evaluating(model):
        for documents in batches(rows):
            prompts = collator.prompts(documents)
            ids = greedy(model, prompts, max_answer_length, collator.pad, collator.end)
            after_prompt = ids[:, prompts["decoder_input_ids"].shape[1] :]
            answers += tokenizer.batch_decode(after_prompt, skip_special_tokens=True)
    return [answer.strip() for answer in answers]

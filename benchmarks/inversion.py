"""How many tokens a server finds again in the states of a cut model, by the nearest that it knows.

``python -m benchmarks.inversion [overrides of a run]``; by default of ``experiment=sfprompt``.

The server has the whole model and the prompts. It compares each state that a client sends, by the
cosine, with states of which it knows the token, and guesses that of the nearest:

- table: each token of the vocabulary in every place of a text that repeats it. With no block in the
  head these are the embeddings, and the attack is a look-up;
- texts: the states of other rows of the same kind, which only knows tokens that these have.

A guess is right if it is the token. Special tokens, which every text has, are not counted.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fl_app.build import open_session
from fl_app.config import joined
from fl_app.models.cut import Cut
from fl_app.session import Session

ROWS = 16  # of client 0, whose tokens are looked for
KNOWN = 200  # rows that the server knows
BATCH = 64


def main() -> None:
    """Print the shares for every cut, as a Markdown table."""
    here = open_session(joined(["experiment=sfprompt", *sys.argv[1:]]))
    print("| blocks of the head | by the table | by other texts |\n|---|---|---|")
    for blocks, shares in recovered(here):
        print(f"| {blocks} | {shares['table']:.1%} | {shares['texts']:.1%} |", flush=True)


def recovered(here: Session) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the blocks of a head, and the share of tokens that each attack finds behind it."""
    here.model.eval()
    own = [*here.documents(0).select(range(min(ROWS, len(here.documents(0)))))]
    test = here.data["test"]
    others = [*test.select(range(min(KNOWN, len(test))))]
    for blocks in range(len(Cut(here.model, 0).blocks)):
        cut = Cut(here.model, blocks)
        states, tokens, places = states_of(here, cut, own)
        known, names, _ = states_of(here, cut, others)
        width = int(places.max()) + 1
        table = table_of(here, cut, width)
        by_table = torch.stack(
            [(table[:, at] @ one).argmax() for one, at in zip(states, places, strict=True)]
        )
        by_texts = names[(states @ known.T).argmax(1)]
        yield (
            blocks,
            {
                "table": (by_table == tokens).float().mean().item(),
                "texts": (by_texts == tokens).float().mean().item(),
            },
        )


def states_of(
    here: Session, cut: Cut, rows: Sequence[Mapping[str, object]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit states [n, h] of the rows' tokens, the tokens and their places in the text."""
    special = torch.tensor(sorted({*here.tokenizer.all_special_ids}))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            batch = here.task.training([dict(row) for row in rows[start : start + BATCH]])
            ids = batch["input_ids"]
            states, _ = cut.head({n: x.to(here.device) for n, x in batch.items()})
            states = states[:, states.shape[1] - ids.shape[1] :].cpu()  # the prompts are in front
            wanted = batch["attention_mask"].bool() & ~torch.isin(ids, special)
            places = torch.arange(ids.shape[1]).expand_as(ids)
            found.append((normalize(states[wanted], dim=-1), ids[wanted], places[wanted]))
    states, tokens, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    return states, tokens, places


def table_of(here: Session, cut: Cut, width: int) -> Tensor:
    """Return the unit states [vocabulary, width, h] of texts that repeat a token."""
    vocabulary = cut.stack.get_input_embeddings().num_embeddings
    found = []
    with torch.no_grad():
        for start in range(0, vocabulary, BATCH):
            ids = torch.arange(start, min(start + BATCH, vocabulary))[:, None].expand(-1, width)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            states, _ = cut.head({n: x.to(here.device) for n, x in batch.items()})
            found.append(normalize(states[:, -width:].cpu(), dim=-1))
    return torch.cat(found)


if __name__ == "__main__":
    main()

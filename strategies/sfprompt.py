"""SFPrompt (Cao et al. 2024, https://arxiv.org/abs/2407.17533): split federated prompt tuning.

The model is cut, W = [W_h, W_b, W_t]: the head (embedding and first blocks) and the tail (what
follows the last block) are the client's, the body between them is the server's. Of a VT5 the
encoder is cut: head are the embeddings of words, boxes and picture and the first blocks, tail the
encoder's last normalization and the whole decoder. Trained are soft prompts p, which stand before
the text, and what of the tail the adapter trains; head and body are frozen. A round has these
phases:

0. Pruning, at the client: the body is left out, and each example scored by EL2N ::

       s(x, y) = || softmax(W_t(W_h(p, x))) - onehot(y) ||_2,

   of which the floor(gamma |D_k|) largest stay. Of an answer, or the answers about a document, it
   is the mean over their tokens.
1. Local-loss update, at the client: local_epochs passes over these with the same shortcut, which
   train p and the tail. Then the examples are scored again. Nothing is sent in both phases.
2. Split training, for each step of split_epochs passes over the examples that stay ::

       client: a = W_h(p, x)            sends a
       server: z = W_b(a)               sends z
       client: L(W_t(z), y)             sends dL/dz
       server: through the body         sends dL/da
       client: through the head; a step of the optimizer on p and the tail.

3. Averaging: the server takes the mean of p and the tail over the clients, all counting the same.

Of an example of T tokens with n prompts a message has (T + n) h values, but dL/dz and z are of the
states that the tail reads alone: one of a classifier, of a decoder those that predict an answer, of
a VT5 all (T counts the visual tokens). Padding is not sent. The loss is computed at the client, so
that labels stay there. A decoder like Llama reads them: their states leave it behind the head's
blocks, as those of a prompt do. A VT5's decoder is in the tail, so that nothing of its labels
leaves, and of its questions only what QueCC made of them.

Of the paper only the abstract and summaries were read. Reconstructed: what the head trains (p
alone), that the body is frozen, split_epochs, and that p and the tail take one step together, with
the gradients of one model: split training is then that of the whole model, to the bit. An exchange
carries the ``gradient_accumulation`` batches of a step. Prompts are PEFT's, before the class token
and not behind it, and a classifier reads its class at the first of them. Ours: the split of an
encoder-decoder, and that a compressor of visual tokens, which is in the head, may be trained.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig
from torch import Tensor, nn

from fl_app.adapters import full
from fl_app.codecs import WireError
from fl_app.codecs.by_part import MODEL
from fl_app.config import ConfigError
from fl_app.faults import FaultError
from fl_app.models.auto import outline
from fl_app.models.cut import Cut, CutError
from fl_app.models.generation import unwrapped
from fl_app.models.vt5 import VT5ForConditionalGeneration
from fl_app.privacy import is_example_level
from fl_app.seeds import turn_seed
from fl_app.tasks import at_labels
from fl_app.tasks.base import Task
from fl_app.training import optimizers
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS, weighted
from fl_app.tree import Tree, below, under
from fl_app.wire.messages import BY_NODE, FORM
from strategies._checks import check_local, check_shared, switches, whole_from, within
from strategies._el2n import pruned
from strategies._layout import LEFT, MOST_STEPS, ROWS, check_layout, layout_of, places, spread

CLIENT = "strategies.sfprompt.SFPromptClient"
ACTIVATIONS, STATES = "activations", "states"  # a up, z down
COTANGENTS, GRADIENTS = "cotangents", "gradients"  # dL/dz up, dL/da down
LAYOUT = "layout"  # beside a: where its states belong, and how many steps are left
FORWARD, BACKWARD, LAST = "forward", "backward", "last"  # forms of the messages after the first
VALUES = "values"
ONE_LABEL = "single_label_classification"
PROMPT = "prompt_encoder."  # the start of the name of p
MOST_QUESTIONS = 32  # about a document, where each has a page of its own
ADAM, VALUE, GRADIENT = "adam/", "value/", "gradient/"
STEP, LOSSES = "step", "losses"


# ---- the client ----------------------------------------------------------------------------------


class SFPromptClient(LocalMethod):
    """Head, tail, prompts, rows and labels.

    Parameters
    ----------
    head_blocks : int
        Blocks of the head, from 1: an embedding alone is inverted by looking it up.
    gamma : float
        Share of the rows that stay, in (0, 1].
    local_loss : bool
        Whether there is a phase 1.
    split_epochs : int
        Passes of phase 2 over the rows that stay.
    batch_size, gradient_accumulation, max_length, max_answer_length, optimizer
        The run's.
    """

    ragged = (ACTIVATIONS, STATES, COTANGENTS, GRADIENTS)

    def __init__(
        self,
        head_blocks: int,
        gamma: float,
        local_loss: bool,
        split_epochs: int,
        batch_size: int,
        gradient_accumulation: int,
        max_length: int,
        max_answer_length: int,
        optimizer: Mapping[str, Any],
    ) -> None:
        whole_from(1, head_blocks=head_blocks, split_epochs=split_epochs)
        within("(0, 1]", gamma=gamma)
        if split_epochs > MOST_STEPS:
            raise ValueError(f"split_epochs={split_epochs} should be at most {MOST_STEPS}")
        switches(local_loss=local_loss)
        self.head_blocks, self.gamma, self.local_loss = head_blocks, gamma, local_loss
        self.split_epochs, self.batch_size = split_epochs, batch_size
        self.step_size = batch_size * gradient_accumulation
        self.most_rows = self.step_size  # of an exchange
        self.most_tokens = max_length + max_answer_length  # of a row
        self.optimizer = DictConfig(optimizer)

    def prepare(self, model: nn.Module) -> None:
        """Note the pages that a VT5 makes of a document, and the visual tokens of each.

        Raises
        ------
        ValueError
            If the model cannot be cut.
        """
        check_cut(model, self.head_blocks)
        inner = unwrapped(model)
        if isinstance(inner, VT5ForConditionalGeneration):
            self.most_rows *= MOST_QUESTIONS if inner.page_per_question else 1
            self.most_tokens += inner.visual_tokens_per_page

    def check(self, theta0: Tree) -> None:
        """Check that there are soft prompts; ValueError if not."""
        if not any(name.startswith(PROMPT) for name in theta0):
            raise ValueError("strategy=sfprompt trains soft prompts, and the model has none")
        self.longest = _prompts(theta0)[0] + self.most_tokens

    def check_sent(self, parts: Mapping[str, Tree], client: int, server_round: int) -> None:
        """Check that no row is longer than one can be; WireError if one is.

        The server pads all rows of a batch to the longest one.
        """
        if LAYOUT in parts:
            found = float(parts[LAYOUT][ROWS][:, 1].max())
            if not found <= self.longest:
                raise WireError(f"a row of {found:g} states, should be at most {self.longest}")

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return the layout's shape, or the most states that an exchange has."""
        if part == LAYOUT:
            return {
                ROWS: np.zeros((self.most_rows, 4), np.float32),
                LEFT: np.zeros(1, np.float32),
            }
        n, h = _prompts(theta0)
        return {VALUES: np.zeros((self.most_rows * (n + self.most_tokens), h), np.float32)}

    def run(self, given: Assignment) -> Answer:
        """Do an exchange: prune, and send the first a; or dL/dz; or step, and send a or p."""
        cut = Cut(given.model, self.head_blocks)
        kept = dict(given.kept) if given.exchange else self.begin(given, cut)
        full.set(given.model, below(VALUE, kept))
        given.model.train()
        if given.form == FORWARD:
            return self.cotangents(given, cut, kept)
        if given.exchange:
            self.step(given, cut, kept)
        if given.form == LAST:
            given.model.eval()
            return Answer({MODEL: full.get(given.model)}, self.metrics(given, kept))
        return self.activations(given, cut, kept)

    def begin(self, given: Assignment, cut: Cut) -> dict[str, np.ndarray]:
        """Do phases 0 and 1: return the rows that stay, and what is trained, to begin phase 2."""
        rows = given.rows()
        if not len(rows):
            raise FaultError("no_rows", "this client holds no rows: check data")
        prune = (given.model, cast(Task, given.task), rows, self.gamma, self.batch_size)
        with cut.without_body():
            stay = pruned(*prune)
            if self.local_loss:
                given.train(NO_HOOKS, rows.select(stay))
                stay = pruned(*prune)
        return {
            ROWS: stay,
            STEP: np.zeros(1, np.int64),
            LOSSES: np.zeros(1),
            **under(VALUE, full.get(given.model)),
        }

    def activations(self, given: Assignment, cut: Cut, kept: dict[str, np.ndarray]) -> Answer:
        """Return a of the next step's batches, and where its states belong."""
        values, layouts = [], []
        with torch.no_grad():
            for number, (batch, _) in enumerate(self.batches(given, kept)):
                states, mask = cut.head(batch)
                values.append(states[mask].cpu())
                layout = layout_of(given.model, batch["labels"], mask).cpu()
                layouts.append(nn.functional.pad(layout, (1, 0), value=number))
        rows = torch.cat(layouts).numpy()
        if len(rows) > self.most_rows:
            raise FaultError(
                "unexpected",
                f"a step has {len(rows)} pages, should be at most {self.most_rows}: a document may "
                f"have {MOST_QUESTIONS} questions",
            )
        table = np.zeros((self.most_rows, 4), np.float32)
        table[: len(rows)] = rows
        left = self.steps(kept) - int(kept[STEP][0]) - 1
        kept[LAYOUT] = table
        sent = {
            ACTIVATIONS: _values(torch.cat(values)),
            LAYOUT: {ROWS: table, LEFT: np.full(1, left, np.float32)},
        }
        return Answer(sent, self.metrics(given, kept), keep=kept)

    def cotangents(self, given: Assignment, cut: Cut, kept: dict[str, np.ndarray]) -> Answer:
        """Return dL/dz of the step's batches; keep the tail's gradients."""
        z = torch.from_numpy(given.parts[STATES][VALUES]).to(_device(given.model))
        z.requires_grad_()
        found = places(kept[LAYOUT], z.device)
        counts = [int(one.read.sum()) for one in found]
        if len(z) != sum(counts):
            raise WireError(f"{len(z)} states of the body, asked were {sum(counts)}")
        given.model.zero_grad(set_to_none=True)
        total = 0.0
        for (batch, share), one, piece in zip(
            self.batches(given, kept), found, z.split(counts), strict=True
        ):
            with cut.after_body(spread(piece, one.read)):
                loss = at_labels.loss(given.model, batch) * share
            if not torch.isfinite(loss):
                raise FaultError("diverged", "the loss is not finite: lower optimizer.lr")
            loss.backward()
            total += loss.item()
        self.note(kept, total)
        trained = {n: p for n, p in given.model.named_parameters() if p.grad is not None}
        kept |= under(GRADIENT, {n: cast(Tensor, p.grad).cpu().numpy() for n, p in trained.items()})
        return Answer(
            {COTANGENTS: _values(cast(Tensor, z.grad))}, self.metrics(given, kept), keep=kept
        )

    def step(self, given: Assignment, cut: Cut, kept: dict[str, np.ndarray]) -> None:
        """Take dL/da through the head, and a step of the optimizer on p and the tail."""
        model, number = given.model, int(kept[STEP][0])
        gradients = torch.from_numpy(given.parts[GRADIENTS][VALUES]).to(_device(model))
        model.zero_grad(set_to_none=True)
        at = 0
        for batch, _ in self.batches(given, kept):
            states, mask = cut.head(batch)
            count = int(mask.sum())
            states[mask].backward(gradients[at : at + count])
            at += count
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, gradient in below(GRADIENT, kept).items():
            of_tail, of_head = torch.from_numpy(gradient).to(trained[name]), trained[name].grad
            trained[name].grad = of_tail if of_head is None else of_head + of_tail
        optimizer, schedule = optimizers.build(trained.values(), self.optimizer, self.steps(kept))
        _restore(optimizer, kept)
        for group, rate, factor in zip(
            optimizer.param_groups, schedule.base_lrs, cast(Any, schedule).lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(number)
        nn.utils.clip_grad_norm_(trained.values(), self.optimizer.max_grad_norm)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        for name in [n for n in kept if n.startswith((GRADIENT, ADAM))]:
            del kept[name]
        kept |= under(VALUE, full.get(model)) | _saved(optimizer)
        kept[STEP] = np.array([number + 1])

    def batches(
        self, given: Assignment, kept: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[dict[str, Tensor], float]]:
        """Yield the batches of the step and their shares of the labels, as the local loop has them.

        Before each one the generator is seeded anew: dropout is the same in all passes of a step.
        """
        number, stay = int(kept[STEP][0]), kept[ROWS]
        epoch, at = divmod(number, self.steps_per_epoch(kept))
        order = torch.Generator().manual_seed(given.seed)
        for _ in range(epoch + 1):
            shuffled = torch.randperm(len(stay), generator=order)
        rows = given.rows()
        chosen = stay[shuffled.split(self.step_size)[at].numpy()]
        made = [
            cast(Task, given.task).training([rows[int(i)] for i in some])
            for some in np.split(chosen, range(self.batch_size, len(chosen), self.batch_size))
        ]
        for index, one in enumerate(weighted(given.model, made)):
            torch.manual_seed(turn_seed(given.seed, number, index))
            yield one

    def steps_per_epoch(self, kept: Mapping[str, np.ndarray]) -> int:
        """Return the steps of a pass of phase 2."""
        return -(-len(kept[ROWS]) // self.step_size)

    def steps(self, kept: Mapping[str, np.ndarray]) -> int:
        """Return the steps of phase 2."""
        return self.split_epochs * self.steps_per_epoch(kept)

    def note(self, kept: dict[str, np.ndarray], loss: float) -> None:
        """Add a step's loss to those of its pass."""
        at = int(kept[STEP][0]) % self.steps_per_epoch(kept)
        kept[LOSSES] = kept[LOSSES] * (at > 0) + loss

    def metrics(self, given: Assignment, kept: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the rows that stay, and the mean loss of the last pass."""
        examples = cast(Task, given.task).examples(given.rows().select(kept[ROWS]))
        return {
            "num-examples": examples,
            "loss": float(kept[LOSSES][0]) / self.steps_per_epoch(kept),
        }


def check_cut(model: nn.Module, head_blocks: int) -> None:
    """Check that the model can be cut; ValueError if not."""
    try:
        Cut(model, head_blocks)
    except CutError as error:
        raise ValueError(f"strategy.local.head_blocks={head_blocks}: {error}") from None


def _prompts(theta0: Tree) -> tuple[int, int]:
    """Return the number of soft prompts, and h."""
    n, h = next(x.shape for name, x in theta0.items() if name.startswith(PROMPT))
    return n, h


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _values(states: Tensor) -> Tree:
    return {VALUES: np.ascontiguousarray(states.detach().float().cpu().numpy())}


def _saved(optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Return the moments of AdamW, by the number of the parameter and their name."""
    state = optimizer.state_dict()["state"]
    return {f"{ADAM}{i}/{n}": x.cpu().numpy() for i, one in state.items() for n, x in one.items()}


def _restore(optimizer: torch.optim.Optimizer, kept: Mapping[str, np.ndarray]) -> None:
    """Undo `_saved`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in below(ADAM, kept).items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = torch.from_numpy(x)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# ---- the server ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the server holds of a client's step between z and dL/dz.

    Attributes
    ----------
    a, z : list of Tensor
        Of each batch, [states, h]; z is computed of a.
    left : int
        The client's steps after this one.
    """

    a: list[Tensor]
    z: list[Tensor]
    left: int


class SFPrompt(FedAvg):
    """The body, and the mean of prompts and tails.

    Parameters
    ----------
    head_blocks : int
        See `SFPromptClient`.
    seed : int
        Of the body's dropout.
    """

    mean_type = True

    def __init__(self, head_blocks: int, seed: int, **arguments: object) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        whole_from(1, head_blocks=head_blocks)
        self.head_blocks, self.seed = head_blocks, seed
        self._held: dict[int, Held] = {}  # by client, in a round
        self._left: dict[str, int] = {}  # by client, the steps that it said were left

    def check(self, cfg: DictConfig) -> None:
        """Check that the run can be split; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, ["head_blocks"], "both ends cut the model alike")
        if (cfg.adapter.id, cfg.adapter.get("method")) != ("peft", "PROMPT_TUNING"):
            raise ConfigError(
                "strategy=sfprompt trains soft prompts: set adapter=peft "
                "adapter.method=PROMPT_TUNING adapter.args.num_virtual_tokens=5"
            )
        for key, found, wanted in (
            ("task.id", cfg.task.id, ("sequence_classification", "causal_lm", "docvqa")),
            ("task.problem_type", cfg.task.get("problem_type", ONE_LABEL), (ONE_LABEL,)),
            ("optimizer.id", cfg.optimizer.id, ("adamw",)),
            ("augment.id", cfg.augment.id, ("none",)),
        ):
            if found not in wanted:
                raise ConfigError(
                    f"{key}={found} should be {' or '.join(wanted)} with strategy=sfprompt"
                )
        if cfg.task.get("format") == "text":
            raise ConfigError("task.format=text cuts rows into pieces; sfprompt prunes whole rows")
        if is_example_level(cfg):
            raise ConfigError(
                f"privacy={cfg.privacy.id} lets nothing of rows leave a client but noised updates, "
                "and split training sends states of each row: set privacy=none"
            )
        if cfg.federation.sampling == BY_NODE:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but a round has several messages to a client, "
                "which must be known: set it to partitions"
            )
        if cfg.turns:
            raise ConfigError("turns change a turn's settings by round; sfprompt's are fixed")
        if cfg.task.id != "docvqa" and (model := outline(cfg.model, cfg.task)) is not None:
            check_cut(model.requires_grad_(False), self.head_blocks)

    def answer(self, model: Any, server_round: int, reply: Message) -> Message:
        """Return z of the a that a client sent, or dL/da of its dL/dz.

        Raises
        ------
        WireError
            If the client's states do not fit what it said of them.
        """
        client = reply.metadata.src_node_id
        cut, content = Cut(model, self.head_blocks), reply.content.array_records
        if ACTIVATIONS in content:
            torch.manual_seed(turn_seed(self.seed, server_round, client))
            held = self.forward(cut, _numpy(content[ACTIVATIONS])[VALUES], _numpy(content[LAYOUT]))
            self._note_left(str(client), held.left)
            self._held[client] = held
            form, part, values = FORWARD, STATES, torch.cat(held.z)
        else:
            held = self._held.pop(client)
            values = self.backward(held, _numpy(content[COTANGENTS])[VALUES])
            form, part = BACKWARD if held.left else LAST, GRADIENTS
        record = ArrayRecord({n: Array(x) for n, x in _values(values).items()})
        answer = RecordDict({part: record, "config": ConfigRecord({FORM: form})})
        return Message(answer, dst_node_id=client, message_type="train")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a round: nothing is held of another one."""
        self._held, self._left = {}, {}
        return super().configure_train(server_round, arrays, config, grid)

    def _note_left(self, client: str, left: int) -> None:
        """Check that a client's steps come to an end; WireError if not."""
        before = self._left.get(client)
        if before is not None and left != before - 1:
            raise WireError(f"{left} steps left, after a step of which {before} were")
        self._left[client] = left

    def forward(self, cut: Cut, a: np.ndarray, layout: Mapping[str, np.ndarray]) -> Held:
        """Return z of a client's a, with what is needed to go back."""
        check_layout(layout, len(a))
        cut.model.train()
        values = torch.from_numpy(a).to(_device(cut.model))
        found = places(layout[ROWS], values.device)
        pieces = values.split([int(one.states.sum()) for one in found])
        inputs = [piece.detach().clone().requires_grad_() for piece in pieces]
        outputs = [
            cut.body(spread(x, one.states), one.states)[one.read]
            for x, one in zip(inputs, found, strict=True)
        ]
        return Held(inputs, outputs, int(layout[LEFT][0]))

    def backward(self, held: Held, cotangents: np.ndarray) -> Tensor:
        """Return dL/da, [states, h]."""
        counts = [len(z) for z in held.z]
        if len(cotangents) != sum(counts):
            raise WireError(f"{len(cotangents)} gradients of {sum(counts)} states")
        given = torch.from_numpy(cotangents).to(held.z[0].device).split(counts)
        torch.autograd.backward(held.z, list(given))
        return torch.cat([cast(Tensor, a.grad) for a in held.a])


def _numpy(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}

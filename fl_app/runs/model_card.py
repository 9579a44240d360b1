"""README.md of an exported model: what it is, what it cost, how good it is, and how to load it.

It says how many rows there were and which columns they had, and never what stood in them; nothing
of when, where and by whom it was trained.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from fl_app.adapters import WHOLE
from fl_app.adapters.peft_methods.declared import is_prompt_learning
from fl_app.faults.printable import printable
from fl_app.runs import exported, selection
from fl_app.runs.base_model import Base
from fl_app.runs.bases import COPY
from fl_app.runs.selection import Metric
from fl_app.runs.summary import versions
from fl_app.runs.text import guarantee, score, size, title
from fl_app.wire.ledger import Transfers, short_name

USE = "## Use it"
AN_ADAPTER = "an adapter"
GENERATES = ("CausalLM", "Seq2SeqLM")
GENERATE = (
    "Take its answers, or the model's own logits: PEFT's `generate` puts the virtual tokens before "
    "every new token again, and its answers are others."
)
ROUTED = (
    "In the run each row was answered by the adapter that the strategy's router found for it. This "
    "folder holds the mean of all adapters, without the router: its own scores differ."
)
WHAT = {
    "full": "all weights",
    "ligo": "a larger model, grown from the base by LiGO",
    "quecc": "the base with a trained QueCC and projector",
}
AUTO = {
    "causal_lm": "CausalLM",
    "seq2seq": "Seq2SeqLM",
    "sequence_classification": "SequenceClassification",
}


class Facts(NamedTuple):
    """What a card says of a run.

    Attributes
    ----------
    cfg : DictConfig
        Its configuration.
    base : Base
        The model that it started from.
    data : mapping of str to (int, sequence of str)
        Split -> how many rows it has, and its columns.
    metrics : sequence of Metric
        All scores.
    ledger : Transfers
        All transfers.
    theta0 : str
        The digest of the start of the trained tensors.
    spent : dict or None
        See ``fl_app.privacy.budget.spent``; None: it was trained without privacy.
    routed : bool
        Whether the scores are those of several models, each of which answered some rows, while the
        exported one is their mean.
    """

    cfg: DictConfig
    base: Base
    data: Mapping[str, tuple[int, Sequence[str]]]
    metrics: Sequence[Metric]
    ledger: Transfers
    theta0: str
    spent: dict[str, Any] | None
    routed: bool = False


def text(facts: Facts, name: str) -> str:
    """Return the card of the model in the folder ``name`` of a run."""
    return "\n".join(
        [
            *_front(facts),
            f"# {facts.cfg.experiment}",
            "",
            _first(facts, name),
            "",
            *_table(facts),
            "",
            *_scores(facts),
            *_data(facts),
            USE,
            "",
            use(facts.cfg, facts.base),
        ]
    )


def merged(card: str, cfg: DictConfig) -> str:
    """Return the card of a merged model, given that of the adapter, which may be empty."""
    about = card.partition(USE)[0].replace("library_name: peft", "library_name: transformers")
    about = about.replace(f": {AN_ADAPTER} (", ": a whole model, with the adapter merged (", 1)
    about = about or "# A merged model\n\nTrained by Thinwire.\n\n"
    return (
        f"{about}{USE}\n\nThe adapter is merged into the weights of the base: PEFT is not needed."
        f"\n\n{_whole(cfg)}"
    )


def grown(cfg: DictConfig, base: Base, steps: int) -> str:
    """Return the card of a model that ``thinwire grow`` has written."""
    return (
        "---\nlibrary_name: transformers\ntags:\n- thinwire\n---\n# A grown model\n\n"
        f"Grown by Thinwire with LiGO, whose operator was trained for {steps} steps; its own "
        f"weights have not been trained yet. Base: {base.said}.\n\n{USE}\n\n{use(cfg, base)}"
    )


def grown_adapter(cfg: DictConfig, base: Base) -> str:
    """Return the card of a LoRA that ``thinwire grow`` has written beside its base."""
    return (
        "---\nlibrary_name: peft\ntags:\n- thinwire\n---\n# A grown adapter\n\n"
        "Made by Thinwire of a LoRA over a smaller model, by the operator that has grown its base "
        f"(LiGO), and not trained since. Its rank is {cfg.adapter.r}. Base: {_base(base)}.\n\n"
        f"{USE}\n\n{use(cfg, base)}"
    )


def _front(facts: Facts) -> list[str]:
    """Return what the hub reads of a card."""
    is_whole = facts.cfg.adapter.id in WHOLE
    return [
        "---",
        f"library_name: {'transformers' if is_whole else 'peft'}",
        *([f"base_model: {facts.base.id}"] if facts.base.id else []),
        "tags:",
        "- federated-learning",
        "- thinwire",
        "---",
    ]


def _first(facts: Facts, name: str) -> str:
    cfg, rounds = facts.cfg, [r for r, *_ in facts.metrics]
    last = max(rounds, default=0)
    found = selection.best_round(facts.metrics, cfg.target.metric)
    which = f"the model after round {last}"
    if name == exported.BEST:
        split = selection.selected_on(facts.metrics, cfg.target.metric)
        which = f"the model after round {found}, which the rows of {split} selected"
    what = WHAT.get(cfg.adapter.id) or f"{AN_ADAPTER} ({_adapter(cfg)})"
    return f"Trained by Thinwire, federated: {what}, {which}. Base: {facts.base.said}."


def _adapter(cfg: DictConfig) -> str:
    method = cfg.adapter.get("method")
    return f"{cfg.adapter.id} {method}" if method else str(cfg.adapter.id)


def _table(facts: Facts) -> list[str]:
    cfg = facts.cfg
    last = max((r for r, *_ in facts.metrics), default=0)
    private = guarantee(facts.spent) if facts.spent is not None else "no privacy"
    strategy = str(cfg.strategy.inner._target_).rpartition(".")[2]
    known = [f"{package} {found}" for package, found in versions().items()]
    rows = [
        ("task", f"{cfg.task.id}"),
        ("clients", f"{cfg.federation.clients}, {cfg.clients_per_round} in each round"),
        ("rounds", str(last)),
        ("strategy", strategy),
        ("codec", f"{short_name(cfg.codec.down)} down, {short_name(cfg.codec.up)} up"),
        ("bytes sent", size(facts.ledger.sent(column="frame_bytes"))
         + " of coded models, both directions"),
        ("privacy", private),
        ("seed", str(cfg.seed)),
        ("start", f"theta0 {facts.theta0}"),
        ("base", _base(facts.base)),
        ("versions", ", ".join(one for one in known if not one.endswith("not installed"))),
    ]  # fmt: skip
    return ["| what | value |", "|---|---|", *(f"| {one} | {said} |" for one, said in rows)]


def _base(base: Base) -> str:
    parts = [base.said]
    if base.revision:
        parts.append(f"revision {base.revision}")
    if base.sha256:
        parts.append(f"sha256 of its weights {base.sha256}")
    return ", ".join(parts)


def _scores(facts: Facts) -> list[str]:
    """Return the last round's scores and the best one's, of every split."""
    metric, metrics = facts.cfg.target.metric, facts.metrics
    splits = list(dict.fromkeys(split for _, split, _, _ in metrics))
    if not splits:
        return []
    best, selected = selection.best_round(metrics, metric), selection.selected_on(metrics, metric)
    lines = [
        "## Scores",
        "",
        f"The best round, {best}, is that with the highest {title(metric)} on {selected}.",
        "",
        "| split | metric | last round | best round |",
        "|---|---|---|---|",
    ]
    for split in splits:
        for name in dict.fromkeys(m for _, s, m, _ in metrics if s == split):
            found = selection.scores(metrics, split, name)
            at_best = "-" if best not in found else score(name, found[best])
            lines.append(
                f"| {split} | {title(name)} | {score(name, found[max(found)])} | {at_best} |"
            )
    if facts.routed:
        lines += ["", ROUTED]
    return [*lines, ""]


def _data(facts: Facts) -> list[str]:
    lines = ["## Data", "", f"Data set: {facts.cfg.data.id}.", ""]
    lines += ["| split | rows | columns |", "|---|---|---|"]
    for split, (count, columns) in facts.data.items():
        # A name may hold anything that a file's header can.
        shown = ", ".join(printable(one, most=60).replace("|", r"\|") for one in columns)
        lines.append(f"| {split} | {count:,} | {shown} |")
    if "train" not in facts.data:
        lines.append("| train | on the nodes | |")
    return [*lines, ""]


def use(cfg: DictConfig, base: Base) -> str:
    """Return how the model is loaded, as text with code that runs."""
    answers = (
        "`thinwire predict THIS_FOLDER rows.csv` answers the rows of a table; "
        "thinwire.json holds columns, prompt and labels.\n"
    )
    if cfg.adapter.id in WHOLE:
        return f"{_whole(cfg)}\n{answers}"
    if cfg.task.id not in AUTO:
        return f"{_by_thinwire()}\n{answers}"
    kind = AUTO[cfg.task.id]
    virtual = cfg.adapter.id == "peft" and is_prompt_learning(cfg.adapter.method)
    if virtual and kind in GENERATES:
        answers = f"{answers}{GENERATE}\n"
    if cfg.output.base == COPY:
        code = [
            "from peft import PeftModel",
            f"from transformers import AutoModelFor{kind}, AutoTokenizer",
            "",
            'folder = "THIS_FOLDER"',
            f'base = AutoModelFor{kind}.from_pretrained(f"{{folder}}/{exported.BASE}")',
            "model = PeftModel.from_pretrained(base, folder)",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
        return f"The base stands in `{exported.BASE}/`.\n\n{_python(code)}\n{answers}"
    code = [
        f"from peft import AutoPeftModelFor{kind}",
        "from transformers import AutoTokenizer",
        "",
        'folder = "THIS_FOLDER"',
        f"model = AutoPeftModelFor{kind}.from_pretrained(folder{_labels(cfg)})",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    if base.id is not None:
        return f"{_python(code)}\n{answers}"
    code = [
        "from peft import PeftModel",
        f"from transformers import AutoModelFor{kind}, AutoTokenizer",
        "",
        'folder, base = "THIS_FOLDER", "FOLDER_OF_THE_BASE"',
        f"base = AutoModelFor{kind}.from_pretrained(base{_labels(cfg)})",
        "model = PeftModel.from_pretrained(base, folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    merges = "" if virtual else ", and `thinwire merge` writes a model that needs neither"
    return (
        f"The base is not on the hub ({base.said}): name its folder. `output.base=copy` puts a "
        f"copy of it beside an adapter{merges}.\n\n{_python(code)}\n{answers}"
    )


def _labels(cfg: DictConfig) -> str:
    """Return the argument that gives the base as many outputs as the adapter's head has."""
    if cfg.task.id != "sequence_classification":
        return ""
    problem = cfg.task.get("problem_type", "single_label_classification")
    if problem == "regression":
        return f', num_labels=1, problem_type="{problem}"'
    names = ", ".join(f"{at}: {json.dumps(str(one))}" for at, one in enumerate(cfg.task.labels))
    own = "" if problem == "single_label_classification" else f', problem_type="{problem}"'
    return f", id2label={{{names}}}{own}"


def _whole(cfg: DictConfig) -> str:
    kind = AUTO.get(cfg.task.id)
    if kind is None:
        return _by_thinwire()
    return _python(
        [
            f"from transformers import AutoModelFor{kind}, AutoTokenizer",
            "",
            f'model = AutoModelFor{kind}.from_pretrained("THIS_FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        ]
    )


def _by_thinwire() -> str:
    code = [
        "from pathlib import Path",
        "from fl_app.runs import trained",
        "",
        'model, tokenizer, task = trained.load(trained.find(Path("THIS_FOLDER")))',
    ]
    return f"A VT5 is a class of Thinwire's own, which loads it.\n\n{_python(code)}"


def _python(code: Sequence[str]) -> str:
    return "\n".join(["```python", *code, "```", ""])

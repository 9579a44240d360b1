"""What a run forgets, by round: scored on the split ``source``, where the data has one."""

import json
import statistics
from pathlib import Path

from peft import PeftModel

from fl_app.adapters.change import changes, effective_rank
from fl_app.files import atomic_file
from fl_app.runs.folder import RunFolder
from fl_app.session import Session
from fl_app.tasks.forgetting import DISTINCT, FORGOTTEN, SOURCE, distinct_answers, forgotten
from fl_app.tree import Tree

RANK = "effective_rank"
FILE = "effective_rank.json"


def forgetting(
    session: Session, folder: RunFolder, tree: Tree, scores: dict[str, float]
) -> dict[str, float]:
    """Return what ``scores`` on the source, of the model ``tree``, say beside themselves.

    Parameters
    ----------
    session : Session
        The session of the run, with ``tree`` in its model.
    folder : RunFolder
        Its folder: the scores of the model before training are in its metrics.
    tree : Tree
        The trained tensors.
    scores : dict
        The task's metrics on the source.

    Returns
    -------
    metrics : dict
        ``forgotten``: how much worse the task's first metric is than before training, in round 0
        than without an adapter: some start where much is lost already, as LoRA-SB's first step;
        ``effective_rank``: the mean over all changed matrices; ``distinct_answers``, of a task that
        writes answers. Ranks by matrix stand in effective_rank.json.
    """
    cfg, metric = session.cfg, session.task.metrics[0]
    start = {m: v for r, split, m, v in folder.metrics if (r, split) == (0, SOURCE)}
    lost = (
        start[FORGOTTEN] + forgotten(metric, start, scores)
        if start
        else max(0.0, forgotten(metric, _without_adapter(session, scores), scores))
    )
    found = {FORGOTTEN: lost}
    ranks = {
        name: {"rank": effective_rank(change), "norm": round(float(change.norm()), 6)}
        for name, change in changes(session.adapter, session.model, session.theta0, tree)
    }
    if ranks:
        found[RANK] = statistics.fmean(one["rank"] for one in ranks.values())
        _write(folder.path / FILE, ranks)
    rows, most = session.data[SOURCE], cfg.model.max_answer_length
    distinct = distinct_answers(session.model, session.task, rows, most, cfg.seed)
    return found if distinct is None else {**found, DISTINCT: distinct}


def _without_adapter(session: Session, scores: dict[str, float]) -> dict[str, float]:
    """Return the scores of the base; those of the start where nothing can be taken away.

    A base that was quantized for its adapter, as LQ-LoRA's, is worse than the start.
    """
    model, rows = session.model, session.data[SOURCE]
    has_adapter = isinstance(model, PeftModel)
    if not has_adapter:
        return scores
    with model.disable_adapter():
        said = session.task.score(session.task.predict(model, rows), rows)
        return {**said, **session.task.measure(model, rows)}


def _write(path: Path, ranks: dict[str, dict[str, float]]) -> None:
    atomic_file(path, (json.dumps(ranks, indent=2) + "\n").encode())

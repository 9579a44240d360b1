"""The console output of a run: a header, one line per round, and a table at the end."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fl_app import privacy
from fl_app.config import plain
from fl_app.faults.printable import printable
from fl_app.runs import answers
from fl_app.runs.by_client import extremes
from fl_app.runs.clients import LONGEST, by_round, losses
from fl_app.runs.folder import RunFolder
from fl_app.runs.selection import TEST
from fl_app.runs.text import LAST_LINE, duration, guarantee, score, size, title
from fl_app.tasks import metrics
from fl_app.training import turns
from fl_app.tree import Tree
from fl_app.wire.conventions import GIGABYTE
from fl_app.wire.ledger import TRAINING, short_name

MOST_LOST = 5  # clients of which the last table says why they were lost


def header(cfg: DictConfig, folder: Path, theta0: Tree) -> None:
    """Print what the run will do, where its results go, and the titles of the columns."""
    scalars = sum(x.size for x in theta0.values())
    epochs = ", ".join(map(str, turns.epochs(plain(cfg))))
    names = {d: short_name(cfg.codec[d]) for d in ("down", "up")}
    scores = " ".join(f"{title(metric):>9}" for metric in _shown(cfg))
    print(
        f"{printable(cfg.experiment)}: seed {cfg.seed}, {scalars:,} trained scalars, codec "
        f"{names['down']} down, {names['up']} up; {cfg.clients_per_round} of "
        f"{cfg.federation.clients} clients a round, {epochs} local epochs\n"
        f"results: {printable(folder)}\n{_rehearsal(cfg)}"
        f"{'round':>5}  {'clients':<12} {scores} "
        f"{'down':>9} {'up':>9} {'sent so far':>12} {'left':>6}",
        flush=True,
    )


def clients(named: Sequence[tuple[object, int]]) -> None:
    """Print which client each name of a column is, with its number of rows."""
    for client, (name, rows) in enumerate(named):
        print(f"client {client}: {printable(name, most=100)} ({rows:,} rows)", flush=True)


def _rehearsal(cfg: DictConfig) -> str:
    if privacy.noise(cfg) != privacy.SEEDED:
        return ""
    return (
        "privacy: a rehearsal, which protects nobody: the noise is drawn from the run's seed, and "
        "anyone who knows the configuration can remove it\n"
    )


def round_line(run: RunFolder, server_round: int) -> None:
    """Print the clients of a round, the model's scores after it, and the bytes sent."""
    here = [r for r in run.ledger.rows if r.round == server_round]
    rows = [r for r in here if r.kind in TRAINING]
    turns = by_round(here)
    used = turns[0].used if turns and turns[0].kind == "train" else []
    clients = " ".join(_called(run, client) for client in used) or "-"
    if lost := [_called(run, client) for one in turns[:1] for client in sorted(one.lost)]:
        clients += f" (lost {' '.join(lost)})"
    scores = {m: v for r, split, m, v in run.metrics if r == server_round and split == "test"}
    moved = {d: sum(r.message_bytes for r in rows if r.direction == d) for d in ("down", "up")}
    shown = " ".join(f"{score(m, scores[m]):>9}" for m in _shown(run.cfg))
    elapsed = time.perf_counter() - run.started
    left = elapsed / server_round * (run.cfg.rounds - server_round) if server_round else None
    print(
        f"{server_round:>5}  {clients:<12} {shown} "
        f"{size(moved['down']):>9} {size(moved['up']):>9} {size(run.ledger.sent()):>12} "
        f"{'' if left is None else f'{left:.0f} s':>6}",
        flush=True,
    )


def _shown(cfg: DictConfig) -> tuple[str, ...]:
    """Return the two metrics of a round's line: the task's first ones, and the target's."""
    known = metrics.of(cfg.task)
    found = (known[0], str(cfg.target.metric), *known)
    return tuple(dict.fromkeys(found))[:2]


def _called(run: RunFolder, client: int) -> str:
    """Return a client's name, else its number."""
    return printable(run.names.get(client, client), most=12)


def final(summary: dict[str, Any], folder: Path) -> None:
    """Print the totals of a run; ``summary`` is the content of its summary.json."""
    sent, seconds, goal = summary["bytes"], summary["seconds"], summary["target"]
    bits, log = summary["bits_per_scalar_up"], summary["log"]
    lines = {
        "status": summary["status"],
        "test": _scores(summary["final"]),
        "validation": _scores(summary["final_validation"]),
        "best round": _best(summary["best"]),
        "unseen": _scores(summary["final_unseen"]),
        **({"source": _scores(source)} if (source := summary.get("final_source")) else {}),
        **_by_client(folder, summary["best"]["metric"]),
        **_link(summary["link"]),
        "messages": f"{size(sent['message_down'])} down + {size(sent['message_up'])} up "
        f"(payload {size(sent['payload_down'])} + {size(sent['payload_up'])}) + "
        f"{size(sent['setup'])} set-up = {size(sent['total'])}",
        "communication log": f"{size(log['bytes'])}, or {log['bytes'] / GIGABYTE:.5f} GB of 2^30 "
        f"bytes, as {log['convention']}",
        "evaluation": size(sent["evaluate"]),
        "turns": _turns(summary["clients"]),
        "bits per scalar up": "-" if bits is None else f"{bits:.3f}",
        "time": _time(seconds),
        "target": "none"
        if goal["value"] is None
        else f"{title(goal['metric'])} {goal['value']} on {goal['selected_on']}: "
        + (
            "missed"
            if goal["round"] is None
            else f"met in round {goal['round']}, after {size(goal['bytes'])} sent"
        ),
    }
    if sent["message_down_seed_only"] != sent["message_down"]:
        seeded = f"{size(sent['message_down_seed_only'])} down"
        lines["with a seed for the first download"] = seeded
    lines |= _losses(summary["clients"])
    if summary["privacy"] is not None:
        lines["privacy"] = guarantee(summary["privacy"])
    if summary["best"]["last_is_worse"]:
        lines["warning"] = _worse(summary["best"])
    elif summary["status"] == "completed" and _is_least(summary["best"]):
        lines["warning"] = _least(summary["best"], summary["final"])
    if summary["status"] != "completed" and (folder / "checkpoints").is_dir():
        lines["to resume"] = f"resume={folder}"
    if said := answers.one_label(folder):
        lines["one label"] = said
    lines[LAST_LINE] = str(folder / "report.html")
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {text}" for name, text in lines.items()), flush=True)


def _link(link: dict[str, Any] | None) -> dict[str, str]:
    """Return a line on the simulated link, if there is one."""
    if link is None:
        return {}
    until = link["to_target_seconds"]
    met = "" if until is None else f", {duration(until)} until the target"
    arrived = f"{size(link['received'])} of {size(link['sent'])} arrived"
    return {"on the link": f"{duration(link['seconds'])} of transfers{met}; {arrived}"}


def _by_client(folder: Path, metric: str) -> dict[str, str]:
    """Return a line for each place where clients were scored: the least and the largest score."""
    lines = {}
    for source, scores in answers.of_clients(folder).items():
        if (found := extremes(scores, metric)) is not None:
            said = (f"{score(metric, scores[name][metric])} ({printable(name)})" for name in found)
            lines[f"clients, {source}"] = f"{title(metric)} {' to '.join(said)} of {len(scores)}"
    return lines


def _time(seconds: dict[str, float]) -> str:
    """Return what the run took, and what its parts took, which may have run at the same time."""
    took = {name: duration(value) for name, value in seconds.items()}
    return (
        f"{took['total']} in total, with set-up {took['setup']}, evaluation {took['evaluate']}; "
        f"summed over turns: training {took['train']}, encoding {took['encode']}, decoding "
        f"{took['decode']}"
    )


def _turns(clients: dict[str, Any]) -> str:
    """Return how many turns were asked for, lost, late and clipped."""
    others = [f"{clients[name]} {name}" for name in ("lost", "late", "clipped") if clients[name]]
    return ", ".join([f"{clients['asked']} asked", *others])


def _losses(clients: dict[str, Any]) -> dict[str, str]:
    """Return a line for each client that lost turns, and one for those that nobody could ask."""

    def called(client: object) -> str:
        return printable(clients["names"].get(str(client), client), LONGEST)

    found = losses(((one["round"], one["lost"]) for one in clients["by_round"]), called)
    lines = {f"lost {place}": said for place, said in enumerate(found[:MOST_LOST], start=1)}
    if len(found) > MOST_LOST:
        lines["lost, others"] = f"{len(found) - MOST_LOST} more clients: clients of summary.json"
    if absent := clients["absent"]:
        named = ", ".join(map(called, absent))
        lines["absent"] = f"clients {named}: {printable(next(iter(absent.values())))}"
    return lines


def _best(best: dict[str, Any]) -> str:
    """Return the best round, the score that selected it, its test score, and its model."""
    if best["round"] is None:
        return "-"
    metric = best["metric"]
    by = f"{_scores({metric: best['value']})} on {best['selected_on']}, which selected it"
    judged = "" if best["selected_on"] == TEST else f"; {_scores({metric: best['test']})} on test"
    kept = f"; its model: {best['adapter']}/" if best["adapter"] else ""
    return f"{best['round']}: {by}{judged}{kept}"


def _worse(best: dict[str, Any]) -> str:
    """Return that the last round is clearly worse than the best one, and what to do."""
    metric = best["metric"]
    advice = (
        f"take {best['adapter']}/, or fewer rounds or a lower optimizer.lr"
        if best["adapter"]
        else "no validation rows selected a round, so that adapter/ is all there is: take fewer "
        "rounds or a lower optimizer.lr, and give validation rows, by which adapter-best/ is kept"
    )
    return (
        f"the last round is clearly worse than round {best['round']}: {title(metric)} "
        f"{score(metric, best['last'])} after {score(metric, best['value'])} on "
        f"{best['selected_on']}; {advice}"
    )


def _is_least(best: dict[str, Any]) -> bool:
    """Tell whether no round has more than the least score, so that the start is the best one."""
    is_selected = best["round"] == 0 and not metrics.scale(best["metric"]).lower_is_better
    return is_selected and bool(best["value"] == metrics.scale(best["metric"]).least)


def _least(best: dict[str, Any], final: dict[str, float]) -> str:
    """Return that all rounds have the same, least score, and which metrics may tell them apart."""
    metric = best["metric"]
    others = " or ".join(name for name in final if name != metric) or "another"
    kept = f", and {best['adapter']}/ is the model before training" if best["adapter"] else ""
    return (
        f"{title(metric)} is {score(metric, best['value'])} on {best['selected_on']} in every "
        f"round, so that it selects none{kept}; task.metric may be {others}"
    )


def _scores(values: dict[str, float]) -> str:
    return ", ".join(f"{title(name)} {score(name, value)}" for name, value in values.items()) or "-"

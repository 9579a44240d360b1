"""Reports: the Pareto front, means over seeds, tests of differences, pages and pictures."""

import json
import re
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from fl_app.report import page as report
from fl_app.report import plotly
from fl_app.report.__main__ import main
from fl_app.report.comparison import PARTS, comparable, left_out, spread
from fl_app.report.palette import look
from fl_app.report.pareto import front
from fl_app.report.picture import draw
from fl_app.report.significance import LEVEL, MIN_SEEDS, differences, holm, welch
from fl_app.runs.place import SWEEP
from fl_app.runs.read import read
from tests.finished_runs import finished, sweep

# Few values, so that ties are common.
points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(points, st.data())
def test_the_front_is_what_nothing_dominates(found, data) -> None:
    best = front(found)
    assert sorted(best) == [
        i for i, p in enumerate(found) if not any(dominates(q, p) for q in found)
    ]
    for i in set(range(len(found))) - set(best):
        assert any(dominates(found[j], found[i]) for j in best)
    assert [found[i] for i in best] == sorted(found[i] for i in best)
    order = data.draw(st.permutations(range(len(found))))
    shuffled = [found[i] for i in order]
    assert [shuffled[i] for i in front(shuffled)] == [found[i] for i in best]


values = st.floats(0, 1, allow_subnormal=False).map(lambda x: round(x, 6))
samples = st.lists(st.lists(values, min_size=1, max_size=5), min_size=1, max_size=5)


@given(st.lists(values, max_size=6))
def test_a_spread_is_mean_and_standard_deviation_of_the_sample(found) -> None:
    got = spread(found)
    assert got["values"] == found
    assert got["mean"] == (pytest.approx(np.mean(found)) if found else None)
    assert got["sd"] == (pytest.approx(np.std(found, ddof=1)) if len(found) > 1 else None)


@given(samples, st.data())
def test_differences_are_welchs_test_with_holms_correction(found, data) -> None:
    baseline = data.draw(st.integers(0, len(found) - 1))
    got = differences(found, baseline)
    enough = [i for i, sample in enumerate(found) if len(sample) >= MIN_SEEDS and i != baseline]
    assert [d.index for d in got] == (enough if len(found[baseline]) >= MIN_SEEDS else [])
    for d in got:
        sample = found[d.index]
        mean = statistics.mean(sample) - statistics.mean(found[baseline])
        assert d.difference == pytest.approx(mean, abs=1e-12)
        if d.p is None:
            assert len({*sample}) == len({*found[baseline]}) == 1
        else:
            direct = stats.ttest_ind(sample, found[baseline], equal_var=False)
            assert d.p == pytest.approx(direct.pvalue)
            low, high = direct.confidence_interval(0.95)
            assert (d.low, d.high) == (pytest.approx(low), pytest.approx(high))
    tested = [d for d in got if d.p is not None]
    assert [d.holm for d in tested] == holm([d.p for d in tested])


def test_welchs_test_of_a_known_example() -> None:
    """By hand: means 2 and 4, variances 1 and 4, so t = -2 / sqrt(5 / 3) with 2.94 degrees."""
    got = welch(0, [1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    freedom = (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert got.p == pytest.approx(2 * stats.t.cdf(-2 / np.sqrt(5 / 3), freedom))


@given(st.lists(st.floats(0, 1), max_size=8), st.data())
def test_holm_rejects_what_the_step_down_procedure_rejects(p, data) -> None:
    corrected = holm(p)
    count = len(p)
    for one, other in zip(p, corrected, strict=True):
        assert one <= other <= min(1, count * one) + 1e-12
    ranked = sorted(range(count), key=lambda i: p[i])
    rejected: set[int] = set()
    for rank, i in enumerate(ranked):
        if (count - rank) * p[i] > LEVEL:
            break
        rejected.add(i)
    assert {i for i in range(count) if corrected[i] <= LEVEL} == rejected
    order = data.draw(st.permutations(range(count)))
    assert holm([p[i] for i in order]) == [corrected[i] for i in order]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sweep(tmp_path_factory.mktemp("sweep"))


def test_only_completed_runs_count_and_each_seed_once(swept: list[Path]) -> None:
    runs = [read(folder) for folder in swept]
    (one,) = comparable(runs)
    got = {row["label"]: row for row in one["configurations"]}
    assert sorted(got) == ["fedavg, nf4, clients_per_round=2", "fp32", "nf4"]
    assert all(row["seeds"] == [0, 1, 2] for row in got.values())
    assert got["nf4"]["score"]["values"] == [0.84, 0.85, 0.86]
    assert {path.name: why for path, why in left_out(runs)} == {
        "failed": "failed",
        "going": "unfinished",
        "repeated": "repeats seed 2 of its configuration",
    }
    assert [row["label"] for row in one["configurations"] if row["front"]] == ["nf4"]


def test_a_configuration_has_one_colour_on_a_page(tmp_path: Path) -> None:
    words = [f"codec={codec}" for codec in ("nf4", "fp32", "sign", "int8", "fp16")]
    other = "data=word_problems task=word_problems model=llama-tiny"
    runs = [
        read(finished(tmp_path / f"{i}{seed}{more[:4]}", f"{more} {word}", seed, payload=9 + 9 * i))
        for i, word in enumerate(words)
        for seed in range(2)
        for more in ("", other)
    ]  # fmt: skip
    sets = comparable(runs)
    colors = {(row["label"], look(row["style"])) for one in sets for row in one["configurations"]}
    assert sorted(label for label, _ in colors) == ["fp16", "fp32", "int8", "nf4", "sign"]
    assert len({color for _, (color, _) in colors}) == 5
    assert all(len(row["seeds"]) == 2 for one in sets for row in one["configurations"])


def test_the_numbers_of_a_configuration_are_those_of_its_runs(swept: list[Path]) -> None:
    runs = [read(folder) for folder in swept]
    (one,) = comparable(runs)
    for row in one["configurations"]:
        members = [r for r in runs if r.status == "completed" and r.path.name != "repeated"]
        members = [r for r in members if r.ledger.sent() in row["bytes"]["values"]]
        assert len(row["parts"]) == len(PARTS)
        assert sum(row["parts"]) == pytest.approx(row["bytes"]["mean"])
        assert row["curve"][-1]["bytes"] == row["bytes"]["mean"]
        assert row["curve"][-1]["mean"] == row["score"]["mean"]
        met = [r for run in members if (r := run.first_met(0.808)) is not None]
        assert row["rounds_to_target"]["values"] == met
        assert row["bytes_to_target"]["values"] == [
            run.ledger.sent(until=run.first_met(0.808))
            for run in members
            if run.first_met(0.808) is not None
        ]


def test_scores_of_other_tests_are_not_compared(tmp_path: Path) -> None:
    folders = [
        finished(tmp_path / "a"),
        finished(tmp_path / "b", "data.test_documents=3"),
        finished(tmp_path / "c", "data=word_problems task=word_problems model=llama-tiny"),
        finished(
            tmp_path / "f",
            "data=word_problems task=sequence_classification task.texts=[instruction] "
            "task.label=kind task.labels=[pond,sky] model=llama-tiny",
        ),
    ]
    table = "data=table data.test.share=0.2 data.train.path=/srv"
    folders += [finished(tmp_path / name, f"{table}/{name}.csv") for name in ("d", "e")]
    sets = comparable([read(folder) for folder in folders])
    assert sorted(one["title"] for one in sets) == [
        "ANLS on .../d.csv table",
        "ANLS on .../e.csv table",
        "ANLS on docvqa_mini (test_documents=3)",
        "ANLS on docvqa_mini (test_documents=80)",
        "accuracy on word_problems (task.id=causal_lm)",
        "accuracy on word_problems (task.id=sequence_classification, task.label=kind)",
    ]


def test_a_run_that_lost_a_client_is_nowhere_on_the_front_without_a_mark(tmp_path: Path) -> None:
    """It sent less; the label says why, in tables, charts and the picture."""
    whole = finished(tmp_path / "whole", "codec=nf4", payload=9000)
    damaged = finished(tmp_path / "damaged", "codec=sign", payload=900, lost=(2,))
    (one,) = comparable([read(whole), read(damaged)])
    assert {row["label"]: row["star"] for row in one["configurations"]} == {
        "sign [1 turn lost]": "(*)", "nf4": "",
    }  # fmt: skip
    drawn = draw([read(whole), read(damaged)], tmp_path / "a.svg").read_text()
    assert "sign [1 turn lost]" in drawn
    assert ">hollow: clients were lost<" in drawn  # a line of its own, which fits the width
    page = report.write(damaged).read_text(encoding="utf-8")
    assert "client 4 in round 2: a row has no answer" in page
    assert re.search(r">2 <span class=\"lost\">\(lost 4\)</span></span></td>", page)
    assert "[1 turn lost]" in str(embedded(report.compare_runs([whole, damaged], tmp_path / "c")))


def embedded(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


EVIL = "</script><script>alert(1)</script>"


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    folders = [finished(tmp_path / name) for name in ("one", "two")]
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        summary["overrides"] = f"experiment={EVIL} {folder.name}=1"
        summary["versions"]["flwr"] = summary["status"] = EVIL
        (folder / "summary.json").write_text(json.dumps(summary))
        config = (folder / "config.yaml").read_text() + f"\nother: '{EVIL} {folder.name}'\n"
        (folder / "config.yaml").write_text(config.replace("nf4_single", f"'{EVIL}'"))
    pages = [report.write(folders[0]), report.compare_runs(folders, tmp_path / "all.html", EVIL)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert text.count("</script>") == 3
        assert embedded(page)


def test_a_page_repeats(swept: list[Path], tmp_path: Path) -> None:
    pages = [report.compare_runs(swept, tmp_path / name) for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_pages_of_a_sweeps_runs_share_their_script(tmp_path: Path) -> None:
    """A run alone, and a page that goes elsewhere, have it in them."""
    folder = finished(tmp_path / "run")
    assert len(report.write(folder).read_bytes()) > 4e6
    (tmp_path / SWEEP).touch()
    page, shared = report.write(folder), tmp_path / plotly.FILE
    assert len(page.read_bytes()) < 1e5
    (address,) = re.findall(r'<script src="(.*)"', page.read_text())
    assert (page.parent / address).resolve() == shared
    assert shared.read_text() == plotly.script()
    shared.write_text("of another version")
    report.write(folder)
    assert shared.read_text() == plotly.script()
    assert len(report.write(folder, tmp_path / "alone.html").read_bytes()) > 4e6


def test_no_place_of_this_machine_is_in_a_page(tmp_path: Path) -> None:
    words = f"model.tokenizer={tmp_path}/of/words data=table data.test.path={tmp_path}/of/rows.csv"
    folders = [
        finished(tmp_path / name, f"{words} codec={name} data.train.path={tmp_path}/of/{name}.csv")
        for name in ("nf4", "sign")
    ]
    folders.append(finished(tmp_path / "failed", words, status="failed"))
    for page in (report.write(folders[0]), report.compare_runs(folders, tmp_path / "all.html")):
        text = page.read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert ".../words" in text
    (runs,) = embedded(page)["tables"].values()
    assert [row[0] for row in runs["rows"]] == ["nf4", "sign", "failed"]
    assert "<code>failed</code>" in text


def test_clients_have_their_names(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", lost=(2,))
    summary = json.loads((folder / "summary.json").read_text())
    summary["clients"]["names"] = {"2": "Bern", "4": "<b>Oslo</b>"}
    (folder / "summary.json").write_text(json.dumps(summary))
    text = report.write(folder).read_text(encoding="utf-8")
    assert (
        'data-name="clients"><span>Bern <span class="lost">(lost &lt;b&gt;Oslo&lt;/b&gt;)</span>'
        in text
    )
    assert "client &lt;b&gt;Oslo&lt;/b&gt; in round 2: a row has no answer" in text


def test_what_has_no_target_misses_none(tmp_path: Path) -> None:
    none = finished(tmp_path / "none", "codec=sign target.value=null")
    high = finished(tmp_path / "high", "codec=nf4 target.value=0.99")
    assert "missed" not in report.write(none).read_text().partition("<noscript>")[0]
    assert "missed" in report.write(high).read_text().partition("<noscript>")[0]
    (one,) = comparable([read(none), read(high)])
    assert {row["label"]: row["aiming"] for row in one["configurations"]} == {"sign": 0, "nf4": 1}


def test_a_run_that_is_not_over_has_a_page(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", scores=(0.3, 0.5), status="unfinished")
    assert "unfinished" in report.write(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("pattern", ["{0}", "{0}/*"])
def test_the_command_compares_a_sweep(swept, capsys, monkeypatch, tmp_path, pattern) -> None:
    monkeypatch.chdir(tmp_path)
    folder = swept[0].parent
    main([pattern.format(folder)])
    page = Path(capsys.readouterr().out.strip())
    assert page == (folder if pattern == "{0}" else Path()) / "report.html"
    assert len(embedded(page)["tables"]["runs"]["rows"]) == len(swept)
    page.unlink()


def test_the_command_reports_one_run_and_draws_the_picture(tmp_path: Path, capsys) -> None:
    folder = finished(tmp_path / "run")
    main([str(folder), "--picture", str(tmp_path / "front.png")])
    assert capsys.readouterr().out.split() == [
        str(folder / "report.html"),
        str(tmp_path / "front.png"),
    ]
    assert embedded(folder / "report.html")["sets"][0]["configurations"][0]["label"] == "run"


@pytest.mark.parametrize("words", [["nothing-*"], ["--out", "x.html", "missing"]])
def test_the_command_says_what_is_wrong(tmp_path: Path, monkeypatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="nothing matches"):
        main(words)
    with pytest.raises(SystemExit) as error:
        main([".", "--picture", "front.jpg"])
    assert error.value.code == 2


def test_the_picture_names_the_front_and_draws_everything(swept, tmp_path: Path) -> None:
    found = [read(folder) for folder in swept]
    text = draw(found, tmp_path / "front.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert text.count(">nf4<") == 1
    assert text.count(">fp32<") == 1  # it is beaten: only in the legend
    assert "target 0.808" in text
    first = draw(found, tmp_path / "a.png")
    assert Image.open(first).size[0] > 1200
    assert first.read_bytes() == draw(found, tmp_path / "b.png").read_bytes()


def test_labels_of_a_crowded_front_do_not_overlap(tmp_path: Path) -> None:
    found = [
        read(finished(tmp_path / f"{i}", f"optimizer.lr={i + 1}e-3", scores=(0.3, 0.80 + i / 100),
                      payload=1000 + 100 * i))
        for i in range(7)
    ]  # fmt: skip
    text = draw(found, tmp_path / "front.svg").read_text(encoding="utf-8")
    places = re.findall(r'transform="translate\(([\d.]+) ([\d.]+)\)"[^>]*>lr=', text)
    places += re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>lr=', text)
    assert len(places) == 7
    lines = sorted(float(y) for _, y in places)
    columns = sorted(float(x) for x, _ in places)
    assert all(
        abs(float(ya) - float(yb)) > 9 or abs(float(xa) - float(xb)) > 40
        for i, (xa, ya) in enumerate(places)
        for xb, yb in places[i + 1 :]
    ), (lines, columns)


def test_beaten_ones_of_a_crowd_have_labels_and_references_a_line(tmp_path: Path) -> None:
    found = [
        read(finished(tmp_path / f"{i}", f"optimizer.lr={i + 1}e-3", scores=(0.3, 0.9 - i / 20),
                      payload=1000 * 2**i))
        for i in range(12)
    ]  # fmt: skip
    text = draw(found, tmp_path / "a.svg", {"lr=5e-3": "what was before"}).read_text("utf-8")
    assert text.count(">what was before<") == 1
    assert all(text.count(f">lr={i + 1}e-3<") == 1 for i in range(4))
    assert "what was before" not in draw(found, tmp_path / "b.svg").read_text("utf-8")


def test_a_low_perplexity_is_high_in_the_picture_and_first_in_the_table(tmp_path: Path) -> None:
    words = "data=word_problems task=word_problems model=llama-tiny target.metric=perplexity"
    words += " target.value=null"
    runs = [
        read(finished(tmp_path / codec, f"{words} codec={codec}", 0, (40.0, last), payload))
        for codec, last, payload in (("nf4", 3.0, 900), ("sign", 9.0, 100), ("fp32", 20.0, 8000))
    ]
    (one,) = comparable(runs)
    assert [row["label"] for row in one["configurations"]] == ["nf4", "sign", "fp32"]
    text = draw(runs, tmp_path / "front.svg").read_text()
    height = {
        label: float(re.search(rf' y="([\d.]+)"[^>]*>{label}<', text)[1])
        for label in ("nf4", "sign")
    }
    assert height["nf4"] < height["sign"]  # counted from the top


def test_a_picture_of_nothing_says_so(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", status="failed")
    with pytest.raises(ValueError, match="no run has completed"):
        draw([read(folder)], tmp_path / "front.png")

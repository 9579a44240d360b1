"""The report's page in a real Chromium, offline: no errors, and what a visitor does with it."""

import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from fl_app import runs
from fl_app.report import page as report
from fl_app.report import plotly
from fl_app.runs.catalog import to_frame
from fl_app.runs.place import SWEEP
from fl_app.runs.read import read
from tests.finished_runs import finished, sweep

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = "no Chromium: install one, e.g. with `apt-get install chromium`"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE, NARROW = 1400, 400
EVIL = "</script><img src=x onerror=\"document.body.dataset.evil='yes'\"><b>x</b>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        # A check that is quietly left out is none.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS)) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A sweep's runs and page; one of its configurations has a name that is a script."""
    folder = tmp_path_factory.mktemp("sweep")
    found = sweep(folder)
    for seed in range(2):
        one = finished(folder / f"evil-s{seed}", "codec=sign", seed, (0.3, 0.7 + seed / 100), 500)
        summary = (one / "summary.json").read_text()
        assert "codec=sign" in summary
        word = EVIL.replace('"', '\\"').replace(" ", "\\u00a0")
        (one / "summary.json").write_text(summary.replace("codec=sign", f"codec={word}"))
        found.append(one)
    return SimpleNamespace(
        runs=found, page=report.compare_runs(found, folder / "report.html", EVIL)
    )


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with seven configurations side by side on the front."""
    folder = tmp_path_factory.mktemp("crowded")
    found = [
        finished(
            folder / f"{i}", f"optimizer.lr={i + 1}e-3", 0, (0.3, 0.8 + i / 100), 1000 + 100 * i
        )
        for i in range(7)
    ]
    return report.compare_runs(found, folder / "report.html")


@pytest.fixture(params=[WIDE, NARROW])
def width(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def visit(browser: Browser):
    """Open a page offline; on the way out, nothing may have failed or been asked for."""
    wrong: list[str] = []
    context = browser.new_context(accept_downloads=True)
    context.set_offline(True)

    def open_page(path: Path, width: int = WIDE) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                None
                if re.match(r"(data|blob):", asked.url)
                or asked.url in (path.as_uri(), (path.parent.parent / plotly.FILE).as_uri())
                else wrong.append(asked.url)
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-drawn]", timeout=60_000)
        return page

    yield open_page
    context.close()
    assert wrong == []


def column(page: Page, table: str, number: int) -> list[str]:
    return page.locator(f"#{table} tbody tr td:nth-child({number})").all_inner_texts()


def test_a_comparison_opens_offline_and_fits(visit, compared, width: int) -> None:
    page = visit(compared.page, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure .main-svg").count() >= 6
    assert page.evaluate("document.body.dataset.evil") is None
    assert page.locator("h1").inner_text() == EVIL
    listed = page.locator("li", has_text="repeats seed 2").inner_text()
    assert "repeated" in listed


def test_pointing_at_a_configuration_says_what_it_is(visit, compared) -> None:
    page = visit(compared.page)
    labels = page.evaluate("data.sets[0].configurations.map((one) => one.label)")
    # What looks like a path in the word is cut to its last part.
    (shown,) = (one for one in labels if "script" in one)
    for label, score, sent in (
        ("nf4", "0.8500 ± 0.0100", "7.2 kB"),
        ("fp32", "0.8100 ± 0.0100", "28.2 kB"),
        (shown, "0.7050 ± 0.0071", "3.1 kB"),
    ):
        place = page.evaluate(
            """(label) => {
              const plot = document.getElementById("pareto-0");
              plot.scrollIntoView({ block: "center" });
              const set = data.sets[0], one = set.configurations.find((o) => o.label === label);
              const layout = plot._fullLayout, box = plot.getBoundingClientRect();
              return [box.x + layout.margin.l + layout.xaxis.d2p(one.bytes.mean),
                box.y + layout.margin.t + layout.yaxis.d2p(one.score.mean)];
            }""",
            label,
        )
        page.mouse.move(place[0] - 60, place[1] - 40)
        page.mouse.move(*place, steps=4)
        text = page.locator("#pareto-0 .hoverlayer .hovertext").first.text_content()
        flat = " ".join(text.split())
        assert " ".join(label.split()) in flat
        assert score in flat
        assert f"{sent} sent" in flat
    assert page.evaluate("document.body.dataset.evil") is None


def test_a_column_sorts_both_ways_and_blanks_come_last(visit, compared) -> None:
    page = visit(compared.page)
    table = runs.runs_table(compared.runs)
    for name in ("bytes_total", "run", "rounds_to_target"):
        place = list(table.columns).index(name) + 1
        for ascending in (True, False):
            page.locator("#runs thead button", has_text=re.compile(f"^{name}$")).click()
            shown = column(page, "runs", 1)
            wanted = table.sort_values(name, ascending=ascending, na_position="last", kind="stable")
            names = [Path(path).name for path in table["run"]]  # as seen from the page
            by_run = table.assign(run=names).set_index("run", drop=False)[name]
            sorted_ = [Path(v).name if name == "run" else v for v in wanted[name].dropna()]
            assert [by_run[r] for r in shown if pd.notna(by_run[r])] == sorted_
            blanks = [text == "" for text in column(page, "runs", place)]
            assert blanks == sorted(blanks)


def test_a_filter_leaves_the_rows_with_all_its_words(visit, compared) -> None:
    page = visit(compared.page)
    page.locator("#all-runs input[type=search]").fill("S2 FEDavg")
    (row,) = column(page, "runs", 1)
    assert row.endswith("fedavg-s2")
    assert f"1 of {len(compared.runs)} rows" in page.locator("#all-runs").inner_text()
    page.locator("#all-runs input[type=search]").fill("")
    assert len(column(page, "runs", 1)) == len(compared.runs)


def test_the_downloaded_csv_is_the_table(visit, compared, tmp_path: Path) -> None:
    page = visit(compared.page)
    with page.expect_download() as download:
        page.locator("#csv").click()
    download.value.save_as(tmp_path / "results.csv")
    table = to_frame(list(map(read, compared.runs)), compared.page.parent)
    table.to_csv(tmp_path / "table.csv", index=False)
    assert str(compared.page.parent) not in (tmp_path / "results.csv").read_text()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "results.csv"), pd.read_csv(tmp_path / "table.csv")
    )


@pytest.mark.parametrize("name", ["SVG", "PNG"])  # Chromium lets a page start ten downloads
def test_every_chart_downloads_as_svg_and_png(visit, compared, tmp_path: Path, name: str) -> None:
    page = visit(compared.page)
    figures = page.locator("figure")
    for number in range(figures.count()):
        with page.expect_download() as download:
            figures.nth(number).get_by_role("button", name=name, exact=True).click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        if name == "SVG":
            assert ElementTree.fromstring(file.read_text(encoding="utf-8")).tag.endswith("svg")
        else:
            assert Image.open(file).size[0] > 500


def test_the_baseline_of_the_tests_can_be_chosen(visit, compared) -> None:
    page = visit(compared.page)
    before = column(page, "significance-0", 1)
    assert before == ["fp32", "fedavg, nf4, clients_per_round=2"]
    assert column(page, "significance-0", 6) == ["yes", "yes"]
    page.get_by_label("compare with").select_option(label="fp32")
    assert column(page, "significance-0", 1) == ["nf4", "fedavg, nf4, clients_per_round=2"]
    assert column(page, "significance-0", 2)[0].startswith("+0.04")


def test_bytes_are_shown_as_shares_and_as_they_are(visit, compared) -> None:
    page = visit(compared.page)
    assert page.locator("#parts-0 .xtick text").first.text_content() == "0%"
    page.get_by_role("button", name="as bytes").first.click()
    page.wait_for_function("document.querySelector('#parts-0 .xtick text').textContent === '0 B'")


def test_every_axis_of_bytes_has_ticks_that_fit(visit, compared) -> None:
    """Also one that spans less than a decade; each tick says what it is at."""
    page = visit(compared.page)
    axes = page.evaluate(
        """() => [1, 1.01, 1.2, 1.7, 3, 8, 20, 1e3, 1e6].flatMap((span) => [7, 99.5, 8.3e4, 1.9e9]
          .flatMap((least) => [250, 320, 1100].map((width) => {
            const axis = bytesAxis([least, least * span], "", width);
            return { ...axis, width, count: axis.tickvals.filter((value) =>
              axis.range[0] <= Math.log10(value) && Math.log10(value) <= axis.range[1]).length };
          })))"""
    )
    units = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    for axis in axes:
        assert 2 <= axis["count"] <= max(3, axis["width"] / 50), [
            axis[k] for k in ("range", "tickvals", "width", "count")
        ]
        for value, text in zip(axis["tickvals"], axis["ticktext"], strict=True):
            number, unit = text.split()
            assert float(number) * units[unit] == pytest.approx(value, rel=1e-3)


def test_labels_of_the_front_do_not_overlap(visit, crowded: Path, width: int) -> None:
    page = visit(crowded, width)
    boxes = page.locator("#pareto-0 .annotation-text").evaluate_all(
        """(all) => all.filter((one) => /^\\d/.test(one.textContent)).map((one) => {
          const box = one.getBoundingClientRect();
          return [box.left, box.top, box.right, box.bottom];
        })"""
    )
    assert len(boxes) == 7
    for i, a in enumerate(boxes):
        assert a[0] >= 0
        assert a[2] <= width
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_page_of_one_run_opens_offline_and_fits(visit, tmp_path: Path, width: int) -> None:
    folder = finished(tmp_path / "run", "codec=nf4")
    page = visit(report.write(folder), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure .main-svg").count() >= 4
    for name in ("SVG", "PNG"):
        assert page.get_by_role("button", name=name, exact=True).count() == 4
    assert "0.8000" in page.locator(".facts").inner_text()


def test_the_page_of_a_sweeps_run_opens_with_the_script_beside_its_folder(
    visit, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / SWEEP).touch()
    path = report.write(finished(tmp_path / "run").rename(tmp_path / "run #1 %20"))
    assert visit(path).locator("figure .main-svg").count() >= 4
    (tmp_path / plotly.FILE).unlink()
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn]")
    assert "thinwire report RUN --out FILE" in page.locator("#sets").inner_text()
    page.close()


def test_no_row_of_tiles_has_one_alone(visit, tmp_path: Path) -> None:
    page = visit(report.write(finished(tmp_path / "run")))
    for width in (NARROW, 700, 1000, WIDE):
        page.set_viewport_size({"width": width, "height": 900})
        for count in range(1, 14):
            lonely = page.evaluate(
                """(count) => {
                  const tiles = document.querySelector(".facts"), one = tiles.lastElementChild;
                  const made = Array.from({ length: count }, () => one.cloneNode(true));
                  tiles.replaceChildren(...made);
                  const boxes = [...tiles.children].map((tile) => tile.getBoundingClientRect());
                  const last = boxes.filter((box) => box.top === boxes.at(-1).top);
                  return last.length === 1 && boxes.length > 1;
                }""",
                count,
            )
            assert not lonely, (width, count)


CUT = """() => [...document.querySelectorAll("main *:not(svg, svg *)")].filter((one) =>
  one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0 &&
  getComputedStyle(one).display !== "inline").map((one) => one.outerHTML.slice(0, 200))"""


def test_a_narrow_page_cuts_nothing(visit, compared, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", "codec=nf4", lost=(1,), validated=(0.1, 0.2, 0.3))
    sample = {"example": 0, "asked": "word " * 90, "reference": "x" * 200, "last": "yes"}
    (folder / "answers.json").write_text(
        json.dumps({"samples": [sample], "classes": {}, "clients": {}})
    )
    for path in (compared.page, report.write(folder)):
        page = visit(path, NARROW)
        assert page.evaluate(CUT) == []
        labels = page.evaluate(
            """() => [...document.querySelectorAll(".plot .xtick text, .plot .ytick text")].filter(
              (one) => { const box = one.getBoundingClientRect(), plot =
                one.closest(".plot").getBoundingClientRect();
                return box.left < plot.left - 1 || box.right > plot.right + 1; })
              .map((one) => one.textContent)"""
        )
        assert labels == []


def test_a_run_without_a_score_has_a_page(visit, tmp_path: Path) -> None:
    page = visit(report.write(finished(tmp_path / "run", scores=(), status="failed")))
    assert "failed" in page.locator("header").inner_text()

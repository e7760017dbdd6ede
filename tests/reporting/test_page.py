"""page: what it shows, that it loads nothing, and that everybody can read it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import layout
from pipeline.core.tables import stages
from pipeline.proof.metrics import METRICS
from pipeline.reporting import choose, collect, page
from pipeline.reporting.estimates import NoEstimates
from pipeline.reporting.records import FAILED, UNBUILT, Artifact, Case, Operators, Point, Report, Stage, Text
from tests.support import reports
from tests.support.pages import Page
from tests.support.reports import point

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&{{ 7 * 7 }}"
LARGEST = 1.5 * 2**20  # bytes of a page with 60 points


def report_of(*points: Point) -> Report:
    """The report of these points."""
    return Report(points, tuple(choose.compare(points)), {"torch": "2.13.0", "cpu": "a CPU"})


def rendered(*points: Point) -> Page:
    """The page of these points, read."""
    return Page(page.render(report_of(*points)))


@pytest.fixture(scope="session")
def real(proven: Path, tmp_path_factory: pytest.TempPathFactory) -> Point:
    """A point that was built, with lineage."""
    folder = reports.copy(proven, tmp_path_factory.mktemp("real") / "tiny-int8")
    reports.lineage(folder, quantize="ran", verify="ran")
    return collect.point(folder.name, ["experiment=tiny"], collect.Sources(folder.parent, NoEstimates()))


@pytest.fixture(scope="session")
def sixty(proven: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Page]:
    """The report of 60 points, and its page."""
    folder = tmp_path_factory.mktemp("sixty")
    overrides = reports.many(proven, folder, 60)
    sources = collect.Sources(folder, NoEstimates())
    report = report_of(*(collect.point(name, given, sources) for name, given in overrides.items()))
    return report, Page(page.render(report))


def sound(found: Page) -> None:
    """Fail where a page is not valid, loads something, or is hard to use for some."""
    assert found.wrong == []
    assert len(set(found.ids)) == len(found.ids)
    assert found.dangling() == set()
    assert found.loaded() == set()
    assert "http" not in re.sub(r"<meta http-equiv", "", found.text)
    assert not [key for _, given in found.elements for key in given if key.startswith("on")]
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(found.headings, found.headings[1:], strict=False))
    assert all(table["caption"] == 1 and table["scope"] and not table["other"] for table in found.tables)
    tags = [tag for tag, _ in found.elements]
    assert {"header", "nav", "main", "footer", "title"} <= set(tags)
    assert ("html", {"lang": "en"}) in found.elements
    landmarks = [given["aria-labelledby"] for tag, given in found.elements if tag == "section"]
    assert len(set(landmarks)) == len(landmarks)
    for tag, given in found.elements:
        if "scroll" in given.get("class", ""):
            assert given["tabindex"] == "0"
        if tag == "svg":
            assert given["role"] == "img"
            assert given["aria-labelledby"]


def test_a_page_of_one_point(real: Point) -> None:
    """All that is known of it is there, open; it is compared with nothing."""
    found = rendered(real)
    sound(found)
    words = found.words
    assert ("details", {"open": ""}) in found.elements
    assert f"Take tiny-int8 (int8, cache of 64 slots): {real.speed.decode_tok_s:,.1f} tokens/s" in words  # type: ignore[union-attr]
    assert "Decode speed against quality" not in words
    assert "Time of a decode step against tokens in the cache" in words
    for heading in ("Lineage and cost", "Parity with the original", "Operators", "Quantized weights", "Text"):
        assert heading in words
    for stage in stages.OF_A_POINT:
        assert stage in words
    assert reports.REASONS[0] in words
    for artifact in real.artifacts:
        assert artifact.name in words
        assert all(case.name in words for case in artifact.cases)
    assert all(next(iter(each.counts)) in words for each in real.operators)
    assert real.rounded[0].form in words
    assert " ".join(real.texts[0].text.split()) in words
    assert "experiment=tiny" in words
    assert "a CPU" in words
    assert "torch 2.13.0" in words


def test_a_page_of_sixty_points(sixty: tuple[Report, Page]) -> None:
    """It is not large; each point has a row and a part of its own, closed; equal input gives equal bytes."""
    report, found = sixty
    sound(found)
    assert len(found.text.encode()) < LARGEST
    assert [given for tag, given in found.elements if tag == "details"] == [{}] * 60
    for number, each in enumerate(report.points, 1):
        assert found.words.count(each.name) >= 2
        assert f"point-{number}" in found.ids
        assert each.speed
        assert f"{each.speed.decode_tok_s:,.1f}" in found.words
    failed = [each for each in report.points if each.state == FAILED]
    assert len(failed) == 3
    assert found.words.count("✗ failed") == 3 * len(failed) + 1  # list, table, own part, and the key
    for comparison in report.comparisons:
        assert comparison.sentence in found.words
    assert page.render(report) == found.text


def test_a_page_without_any_point_that_was_built() -> None:
    """Nor any plot: it says so."""
    found = rendered(Point("a", UNBUILT, ("build it: dvc repro",), ()))
    sound(found)
    assert "There is nothing to recommend: no point was built." in found.words
    assert "build it: dvc repro" in found.words
    assert not [tag for tag, _ in found.elements if tag == "svg"]
    sound(rendered())


def test_failures_are_shown_with_their_reasons() -> None:
    """The stage's error, the case, and what ran of it."""
    stage = Stage("simplify", "failed", ("params.yaml changed",), "error: no pass x")
    cases = (Case("prefill", False, {"kl": 1.0}, "kl", 2.5, failures=("kl is 1 in row 0", "and more")),
             Case("decode", False, failures=("does not run: no",)), Case("last", True, not_run="needs 2 rows"),
             Case("zero", False, {"kl": 1.0}, "kl", None, failures=("kl is 1",)),
             Case("wide", True, {"kl": 1.0}, "kl", 0.5, widened={"kl": 2.0}))  # fmt: skip
    artifact = Artifact("engine", False, "", {}, {}, cases)
    found = rendered(
        point("a", state=FAILED, why=("stage simplify: error: no pass x",), stages=(stage,), artifacts=(artifact,)),
        point("b", speed=None, not_measured="no GPU", notes=("a note",), no_plan="unknown", stages=(stage,)),
    )
    sound(found)
    words = found.words
    for shown in (
        "stage simplify: error: no pass x", "params.yaml changed", "✗ kl 250 %", "✗ failed", "✗ kl over a gate of 0",
        "engine, prefill: kl is 1 in row 0; and more", "Not run: last: needs 2 rows.", "✓ kl 50 % *",
        "passes only by verify.headroom", "not measured: no GPU", "a note", "No plan of memory and disk: unknown.",
    ):  # fmt: skip
        assert shown in words


def test_hostile_text_is_text() -> None:
    """In all that comes from a model, a file or a user."""
    given: dict[str, Any] = {
        "name": HOSTILE,
        "why": (HOSTILE,),
        "overrides": (HOSTILE,),
        "model": HOSTILE,
        "kind": HOSTILE,
        "built": HOSTILE,
        "host": HOSTILE,
        "stages": (Stage("wrap", HOSTILE, (HOSTILE,), HOSTILE),),
        "no_plan": HOSTILE,
        "artifacts": (Artifact(HOSTILE, False, HOSTILE, {}, {}, (Case(HOSTILE, False, failures=(HOSTILE,)),)),),
        "notes": (HOSTILE,),
        "not_measured": HOSTILE,
        "operators": (Operators("onnx", 1, {HOSTILE: 1}),),
        "texts": (Text(HOSTILE, HOSTILE, HOSTILE),),
        "state": FAILED,
    }
    one = replace(point("a", steps=((1.0, 1.0), (2.0, 1.0))), **given)
    found = rendered(one, replace(one, name="$b^2$ & <c>", texts=()))
    sound(found)
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert "img" not in [tag for tag, _ in found.elements]
    assert "49" not in [shown.strip() for shown in found.shown]
    assert HOSTILE in "".join(found.shown)


def test_text_is_what_the_engine_wrote() -> None:
    """Line by line, but for spaces at its start; also from right to left."""
    written = " one\n\n\n  two <b>\n\n\u05e9\u05dc\u05d5\u05dd"
    found = rendered(point("a", texts=(Text("a prompt\n\nof two", written),)))
    assert written[1:] in found.shown
    assert "a prompt\n\nof two" in found.shown
    assert ("div", {"class": "text", "dir": "auto"}) in found.elements


def test_only_its_own_script_may_run() -> None:
    """The policy has the script's digest, and forbids all loading."""
    found = rendered(point("a"))
    (policy,) = [given["content"] for tag, given in found.elements if given.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    script = re.findall(r"<script>(.*?)</script>", found.text, re.DOTALL)[0]
    assert page._policy(script) == policy


def test_several_models_are_told_apart() -> None:
    """Each recommendation names its model; one point by itself has no plots."""
    found = rendered(point("a"), point("b", 20), point("c", model="other"))
    sound(found)
    assert "other: With 1 row and a prompt of 8 tokens" in found.words
    assert found.words.count("Memory of the process") == 2  # title and heading of one plot


def test_a_page_has_no_more_plots_than_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first models, and how to see others."""
    points = [point(f"{model}-{i}", 10.0 + i, model=model) for model in ("a", "b", "c") for i in range(2)]
    assert "left out" not in rendered(*points).words
    monkeypatch.setattr(page, "PLOTS", 3)
    found = rendered(*points)
    sound(found)
    assert [tag for tag, _ in found.elements].count("svg") == 4
    assert "Plots of 1 more model are left out." in found.words


def test_equal_parts_are_shown_once(real: Point) -> None:
    """Later points refer to the first that has them."""
    same, other = replace(real, name="same"), replace(real, name="other", texts=real.texts[:1])
    found = rendered(real, same, other)
    sound(found)
    assert found.words.count("Those of 1. tiny-int8 .") == 2
    assert found.words.count("That of 1. tiny-int8 .") == 1
    assert found.words.count("Operators in the graphs of") == 1
    assert found.words.count(" ".join(real.texts[0].text.split())) == 2


def test_themes_and_paper() -> None:
    """Every colour of a plot is a variable, which both themes set."""
    found = rendered(point("a", steps=((1.0, 1.0), (2.0, 1.0))), point("b", state=FAILED))
    svgs = "".join(re.findall(r"<svg.*?</svg>", found.text, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}", svgs)
    used = set(re.findall(r"var\((--[\w-]+)\)", found.text))
    light, dark = re.findall(r":root \{(.*?)\}", found.text, re.DOTALL)[:2]
    for theme in (light, dark):
        assert used <= set(re.findall(r"(--[\w-]+):", theme))
    assert "@media (prefers-color-scheme: dark)" in found.text
    assert "@media print" in found.text


def test_every_figure_is_explained() -> None:
    """The page has a word for each metric of verify."""
    assert page.METRICS.keys() == METRICS.keys()


def test_rare_operators_share_a_row() -> None:
    """And their numbers add up; what is frequent in one artifact has its own row."""
    given = [Operators(layout.ONNX, 0, {f"op{i:02}": 100 - i for i in range(30)}), Operators("engine", 0, {"op29": 5})]
    rows = page.operator_rows(given)
    assert len(rows) == page.MOST_OPERATORS + 2
    assert rows[0] == ("op00", [100, 0])
    assert rows[-2] == ("op29", [71, 5])
    assert rows[-1][0] == f"{30 - page.MOST_OPERATORS - 1} other operators"
    assert [sum(counts[i] for _, counts in rows) for i in (0, 1)] == [sum(given[0].counts.values()), 5]

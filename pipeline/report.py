"""Write a report of points: artifacts/report.html, one page that loads nothing, and the same data as report.json.

    python -m pipeline.report
    python -m pipeline.report smollm2 smollm2-int8

Without names it covers all points of params.yaml, built or not. docs/report.md says what it shows.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.config import points
from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import read_json, write_json, write_text
from pipeline.planning import history
from pipeline.reporting import choose, collect, locked, page
from pipeline.reporting.estimates import Estimates, NoEstimates
from pipeline.reporting.records import Report


def collected(names: Sequence[str], planned: bool) -> Report:
    """The report of these points of params.yaml, of all of them without names. Raises UserError for others.

    planned: whether to estimate what their stages take, which imports torch.
    """
    known = points.read()
    problems = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known)
            fix = f"choose from: {', '.join(near or known)}"
            problems.append(Problem(f"there is no point {name} in {points.FILE}", "POINT", fix))
    if problems:
        raise UserError(problems)
    sources = collect.Sources(
        artifacts=points.ARTIFACTS,
        planner=Estimates() if planned else NoEstimates(),
        runs=history.read(),
        lock=locked.read(),
    )
    found = tuple(collect.point(name, known[name], sources) for name in known if name in names or not names)
    toolchain = Path(layout.TOOLCHAIN)
    versions = read_json(toolchain) if toolchain.exists() else {}
    return Report(found, tuple(choose.compare(found)), {key: str(value) for key, value in versions.items() if value})


def main() -> None:
    """Run the command."""
    parser = usage.Parser(main, "report", "[POINT ...] [--no-plan]")
    parser.add_argument("points", nargs="*", metavar="POINT", help="names of points; by default all")
    parser.add_argument("--no-plan", action="store_true", help="leave out estimates of memory and disk: seconds faster")
    given = parser.parse()
    report = collected(given.points, not given.no_plan)
    write_json(Path(layout.REPORT_DATA), asdict(report))
    text = page.render(report)
    write_text(Path(layout.REPORT), text)
    for comparison in report.comparisons:
        print(comparison.sentence)
    print(f"{layout.REPORT}: {len(report.points)} points, {len(text.encode()) / 2**20:.2f} MB; {layout.REPORT_DATA}")


if __name__ == "__main__":
    errors.run(main)

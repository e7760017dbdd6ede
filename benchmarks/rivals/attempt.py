"""Build one tiny model with one tool, and judge its tokens."""

import re
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.rivals import report, tools
from benchmarks.rivals.models import first_wrong, generated, greedy, original, prompts, save, unused
from benchmarks.rivals.report import ALONE, CRASHED, FAILS, NO_MODEL, REFUSED, RIGHT, WRONG

# of the ways to build a model the best counts, and the first of these
RANKS = {RIGHT: 0, ALONE: 1, WRONG: 2, FAILS: 3, CRASHED: 4, REFUSED: 4}
REFUSES = re.compile(
    r"not (currently |yet )?(supported(?! between)|implemented|registered)|unsupported|unknown (model|architecture)",
    re.I,
)
NOISE = re.compile(r"\S*/(?=checkpoint)|\x1b\[[\d;]*m| object at 0x\w+|[^\x00-\x7f]")  # other in each run
HALF = report.PROCESSOR_SECONDS / 2  # no other way is tried after so much

Row = dict[str, Any]


def attempt(name: str, kind: str) -> Row:
    """Return a type's row: how it fares with a tool, why, and in how many seconds."""
    start, used = time.perf_counter(), time.process_time()
    try:
        rows = prompts()
        reference = original(kind)
        end = unused([*rows, *greedy(reference, rows)])
    except Exception as error:  # of the original: there is nothing to compare with
        return {"status": NO_MODEL, "reason": text(error), "seconds": 0.0}
    tool = tools.load(name)
    found: list[Row] = []
    for way in tool.ways:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_one(tool, way, kind, Path(folder), end))
        if found[-1]["status"] == RIGHT or time.process_time() - used > HALF:
            break
    best = min(found, key=lambda row: RANKS[row["status"]])
    return best | {"seconds": round(time.perf_counter() - start, 1)}


def _one(tool: tools.Tool, way: str, kind: str, folder: Path, end: int) -> Row:
    """Build in one way, and ask for the tokens of the whole batch; if these are wrong, of each row alone."""
    try:
        model = original(kind)
        save(model, folder / "checkpoint")
        (folder / "built").mkdir()
        built = tool.ways[way](model, folder / "checkpoint", folder / "built")
    except (Exception, SystemExit) as error:  # whatever a tool raises
        traceback.print_exc()
        refused = REFUSES.search(text(error)) or isinstance(error, NotImplementedError)
        return {"status": REFUSED if refused else CRASHED, "reason": text(error), "way": way}
    status, reason = _judged(tool, built, kind, end, together=True)
    if status != RIGHT and _judged(tool, built, kind, end, together=False)[0] == RIGHT:
        status, reason = ALONE, f"in a batch: {reason}"
    return {"status": status, "reason": reason, "way": way}


def _judged(tool: tools.Tool, built: Any, kind: str, end: int, *, together: bool) -> tuple[str, str]:
    rows = prompts()
    try:
        batches = [rows] if together else [[row] for row in rows]
        answers = [answer for batch in batches for answer in tool.answer(built, batch, end)]
    except Exception as error:  # of a runtime
        traceback.print_exc()
        return FAILS, text(error)
    wrong = first_wrong(original(kind), rows, answers)
    return (WRONG, wrong) if wrong and answers != generated(original(kind), rows) else (RIGHT, "")


def text(error: BaseException) -> str:
    """Return an error on one line; its cause where it has one."""
    error = error.__cause__ or error
    return f"{type(error).__name__}: {' '.join(NOISE.sub('', str(error)).split())[:200]}"

"""docs/coverage_others.json and the page that is made of it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.files import write_json

PROCESSOR_SECONDS = 120  # that a tool may take for a type
GIGABYTES = 8
OURS = "coverage.json"
NO_MODEL = "no model"
RIGHT, ALONE, WRONG, FAILS, CRASHED, REFUSED = "right", "alone", "wrong", "does not run", "crashed", "refused"
BUILT = (RIGHT, ALONE, WRONG, FAILS)
STATUSES = (*BUILT, REFUSED, CRASHED)
LABELS = {ALONE: "right, one row at a time"}
HEAD = f"""\
# Coverage of other exporters

The types of [coverage](coverage.md), with tiny configurations and random weights, built by other exporters in fp32 for
a CPU, each by its own command or function with its default options. `make coverage-others` writes this page.

Each model reads a batch of three prompts of 5, 12 and 9 tokens, padded in the way that the tool's graph can express,
and continues them by 16 tokens each. If a token is wrong, each prompt is run again alone, without padding. The graphs
of transformers.exporters take the place of the model in transformers' `generate`, those of onnxruntime-genai run in its
own generator, those of mobius in ONNX Runtime.

* **right**: every token is the greedy choice of the original in transformers, each row alone and without a cache, or
  what transformers' own `generate` chooses. Where two tokens are as good as equal, either is right.
* **right, one row at a time**: wrong in the batch, right for each prompt alone.
* **wrong**: neither. How much lower the original's logit of the first wrong token is than that of its own choice is
  given in standard deviations of all logits there: little where an activation is approximated.
* **does not run**: the files are written, and fail when they are loaded or run.
* **refused**: the tool says that it does not support the model. **crashed**: it ends with another error, or takes more
  than its limits: {PROCESSOR_SECONDS} seconds of a processor, {GIGABYTES} GB.

Where a tool has a static and a growing cache, both are tried, and the better result counts. The configurations are
those of `make coverage`, with a vocabulary of 250 and, for two types, wider heads. A window there is 8 positions long,
less than a prompt: who ignores it is wrong. Types whose tiny original does not run are left out.

kvforge's row is that of [coverage](coverage.md): **right** there is all cases of `pipeline.verify`, which these prompts
are a small part of. It is not measured again here, and it refuses what it cannot verify.
"""


def read(path: Path) -> dict[str, Any]:
    """Return the results so far: tool -> version and types; empty when there are none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def crashed(reason: str) -> dict[str, Any]:
    """Return the row of a type whose process gave no result."""
    if reason.endswith(("-9", "-24")):  # SIGKILL, SIGXCPU
        reason = f"took more than {PROCESSOR_SECONDS} seconds of a processor"
    return {"status": CRASHED, "reason": reason, "seconds": 0.0}


def write(path: Path, found: dict[str, Any], known: int) -> None:
    """Write the JSON and the page beside it; `known`: how many types there are."""
    for entry in found.values():
        entry["types"] = dict(sorted(entry["types"].items()))
    write_json(path, found)
    lines = page(found, read(path.with_name(OURS)).get("types", {}), known)
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page(found: dict[str, Any], ours: dict[str, Any], known: int) -> Iterator[str]:
    """Yield the lines of the page. ours: the types of docs/coverage.json, by `make coverage`."""
    yield HEAD
    columns = ("types", "built", *(LABELS.get(status, status) for status in STATUSES), "right by kvforge")
    yield f"| | {' | '.join(columns)} |"
    yield "|---|" + "--:|" * len(columns)
    if ours:
        own = Counter(row["onnxruntime"] for row in ours.values())
        yield _line(
            "kvforge",
            [len(ours), own["pass"] + own["fail"], own["pass"], 0, own["fail"], 0, own["refused"], 0, own["pass"]],
        )
    for name, entry in found.items():
        rows = {kind: row for kind, row in entry["types"].items() if row["status"] != NO_MODEL}
        count = Counter(row["status"] for row in rows.values())
        counts = [len(rows), sum(count[status] for status in BUILT)]
        counts += [count[status] for status in STATUSES]
        same = sum(ours.get(kind, {}).get("onnxruntime") == "pass" for kind in rows)
        yield _line(f"{name} {entry['version']}", [*counts, same])
    yield "\nThe last column is how many of the same types kvforge passes.\n"
    for name, entry in found.items():
        if left := known - len(entry["types"]):
            done = len(entry["types"])
            yield f"{name} was run on {done} types, drawn at random; {left} are left (the command goes on).\n"
    for name, entry in found.items():
        yield f"## {name}\n"
        for status in (RIGHT, ALONE):
            kinds = [f"`{kind}`" for kind, row in entry["types"].items() if row["status"] == status]
            yield f"{LABELS.get(status, status).capitalize()}: {', '.join(kinds) or 'none'}.\n"
        reasons: dict[tuple[str, str], list[str]] = {}
        for kind, row in entry["types"].items():
            if row["status"] != RIGHT:
                reasons.setdefault((row["status"], row["reason"]), []).append(f"`{kind}`")
        yield "| types | | why |\n|---|---|---|"
        for status in (*STATUSES, NO_MODEL):
            for (its, reason), kinds in reasons.items():
                if its == status:
                    yield f"| {', '.join(kinds)} | {LABELS.get(status, status)} | {_cell(reason)} |"
        yield ""


def _line(name: str, counts: list[int]) -> str:
    return f"| {name} | {' | '.join(map(str, counts))} |"


def _cell(text: str) -> str:
    """Return a text as a cell of a table."""
    for character, written in (("|", "\\|"), ("<", "&lt;"), ("`", "'"), ("\n", " "), ("[", "\\["), ("*", "\\*")):
        text = text.replace(character, written)
    return text

"""docs/coverage_others.json and the page that is made of it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROCESSOR_SECONDS = 120  # a type and tool
OURS = "coverage.json"
BUILT = ("right", "wrong", "does not run")
COLUMNS = (*BUILT, "refused", "crashed")
HEAD = """\
# Coverage of other exporters

The types of [coverage](coverage.md), with the same tiny configurations and random weights, built by other exporters in
fp32 on a CPU, each by its own command or function. `python -m benchmarks.rivals` writes this page.

Each model reads a batch of three prompts of 5, 12 and 9 tokens, padded as the tool's graph can express, and continues
them by 16 tokens each.

* **right**: every token is the greedy choice of the original in transformers, each row alone. Where two tokens are as
  good as equal, either is right.
* **wrong**: a token is not. **does not run**: the files are written, and fail when they are loaded or run.
* **refused**: the tool says that it does not support the model. **crashed**: it ends with another error, or takes more
  than its limits: 180 seconds of a processor, 8 GB.

Prompts of one length may fare better: this asks for what a server needs. A tool that is not named here was not tried.
"""


def read(path: Path) -> dict[str, Any]:
    """Read the results so far: tool -> version and types."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write(path: Path, found: dict[str, Any]) -> None:
    """Write the JSON and the page beside it."""
    for entry in found.values():
        entry["types"] = dict(sorted(entry["types"].items()))
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text("\n".join(page(found, read(path.with_name(OURS)))) + "\n", encoding="utf-8")


def page(found: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    """Write the page. ours: docs/coverage.json, by `make coverage`."""
    yield HEAD
    yield "| tool | types | built | right tokens | wrong | does not run | refused | crashed |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    if own := Counter(row["onnxruntime"] for row in ours.get("types", {}).values()):
        # every case of verify passes, these tokens among many
        counts = [sum(own.values()), own["pass"] + own["fail"], own["pass"], own["fail"], 0, own["refused"], 0]
        yield f"| kvforge, all cases of `pipeline.verify` | {' | '.join(map(str, counts))} |"
    for name, entry in found.items():
        count = Counter(row["status"] for row in entry["types"].values())
        counts = [len(entry["types"]) - count["no model"], sum(count[status] for status in BUILT)]
        counts += [count[status] for status in COLUMNS]
        yield f"| {name} {entry['version']} | {' | '.join(map(str, counts))} |"
    for name, entry in found.items():
        yield f"\n## {name}\n"
        right = [f"`{kind}`" for kind, row in entry["types"].items() if row["status"] == "right"]
        yield f"Right: {', '.join(right) or 'none'}.\n"
        yield "| type | | why |\n|---|---|---|"
        for kind, row in entry["types"].items():
            if row["status"] not in ("right", "no model"):
                reason = row["reason"].replace("|", "\\|").replace("`", "'")
                yield f"| `{kind}` | {row['status']} | {reason} |"

"""docs/coverage.md: a table of what builds, by category; and what changed since the committed one."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINES = {"onnxruntime": "ONNX Runtime", "tensorrt_rtx": "TensorRT-RTX"}
ROOT = Path(__file__).parents[2]
HEAD = """# Coverage

Every type that transformers lists as a causal LM, as a tiny model with random weights. `make coverage` writes this
page.

* **pass**: all cases of `pipeline.verify` pass, and the tokens are the original's. For ONNX Runtime: in fp32, at every
  artifact from the wrapped program to the engine. For TensorRT-RTX: in fp16, the plan builds, its network equals the
  graph (lint), and all cases pass when the network is interpreted; the plan itself runs on a GPU only.
* **refused**: an error names the reason.
* **fail**: anything else.

[Other exporters](coverage_others.md) on the same types.
"""


def read(path: Path) -> dict[str, Any]:
    """Return the results in a file; empty when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def committed() -> dict[str, Any]:
    """Return the results of the last commit; empty when there are none."""
    command = ["git", "-C", str(ROOT), "show", "HEAD:docs/coverage.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return {} if done.returncode else json.loads(done.stdout)


def crashed(reason: str) -> dict[str, Any]:
    """Return the row of a type whose process gave no result."""
    return dict.fromkeys(ENGINES, "fail") | {"category": "crash", "reason": reason, "seconds": 0.0}


def line(kind: str, row: dict[str, Any]) -> str:
    """Return a type's row as a line of text."""
    states = ", ".join(f"{name} {row[name]}" for name in ENGINES)
    reason = f": {row['category']}: {row['reason']}" if row["reason"] else ""
    return f"{kind}: {states} ({row['seconds']:.0f} s){reason}"


def summary(results: dict[str, Any]) -> str:
    """Return how many types pass, fail and are refused, for each engine."""
    parts = []
    for name, label in ENGINES.items():
        counts = Counter(row[name] for row in results["types"].values())
        parts.append(f"{label}: {counts['pass']} pass, {counts['fail']} fail, {counts['refused']} refused")
    return f"{len(results['types'])} types. {'; '.join(parts)}."


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each version and each type's status that is not as before."""
    old, new = before.get("types", {}), after["types"]
    for name, now in after["versions"].items():
        was = before.get("versions", {}).get(name)
        if was not in (None, now):
            yield f"{name} {was} -> {now}"
    for kind in sorted({*old, *new}):
        if kind not in old or kind not in new:
            yield f"{kind}: {'new' if kind in new else 'gone'}"
            continue
        for engine in ENGINES:
            if old[kind][engine] != new[kind][engine]:
                reason = new[kind]["reason"] or old[kind]["reason"]
                yield f"{kind}: {ENGINES[engine]} {old[kind][engine]} -> {new[kind][engine]}: {reason}"


def write(results: dict[str, Any], path: Path) -> None:
    """Write the page."""
    path.write_text("\n".join(_page(results)), encoding="utf-8")


def _page(results: dict[str, Any]) -> Iterator[str]:
    yield HEAD
    yield summary(results)
    yield ""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    yield f"Made with {versions}.\n"
    groups: dict[str, list[str]] = {}
    for kind, row in results["types"].items():
        groups.setdefault(row["category"] if row["reason"] else "", []).append(kind)
    passing = groups.pop("", [])
    yield "## Pass on both engines\n"
    yield ", ".join(f"`{kind}`" for kind in passing) + "\n"
    yield "## The others, by category\n"
    yield f"| type | {' | '.join(ENGINES.values())} | why |"
    yield f"|---|{'---|' * len(ENGINES)}---|"
    for category, kinds in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"| **{category}** ({len(kinds)}) | {'| ' * len(ENGINES)}|"
        for kind in kinds:
            row = results["types"][kind]
            states = " | ".join(row[name] for name in ENGINES)
            yield f"| `{kind}` | {states} | {_cell(row['reason'])} |"
    yield ""


def _cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

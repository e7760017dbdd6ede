"""Compare token ids with llama.cpp's: of GGUF files, and of every pre-tokenizer that a file may name.

    python -m benchmarks.tokens [--write tests/llama_cpp_ids.json] [FILE.gguf ...]

Files are compared over Python's documentation and edge cases. Without any: the default model's, and every
pre-tokenizer over edge cases. --write keeps llama.cpp's ids, for tests on machines without it.
"""

import argparse
import ctypes
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from tokenizers import Tokenizer

from benchmarks.systems import gguf
from pipeline.checkpoint import tokenizer_files
from pipeline.checkpoint.gguf_metadata import Header, read
from pipeline.checkpoint.pre_tokenizers import EXPRESSIONS, IGNORE_MERGES, pre_tokenizer
from pipeline.proof import token_ids
from pipeline.text import texts

NUMBERS = ["".join(digits) for length in (2, 3) for digits in product("0123456789", repeat=length)]
SCRIPTS = (
    "abcXYZ",
    "0123456789",
    " ",
    "  \t\n\r",
    "'sStTdDlLrReEvVmM",
    ".,;:!?()[]{}$+<=>^~|`",
    "éàßЖиΩλ",
    "\u0301\u0308",
)
MORE = ("東京的一是", "ひらカタ", "한국어", "हिन्दी", "١٢٣", "😀🎉", "\u00a0\u3000\u200b", "ǅʰªⅷ½²")


def edge_text() -> str:
    """The edge cases, and 10,000 characters drawn at random from them and from kinds of characters; always the same."""
    rng = random.Random(0)  # noqa: S311
    drawn = ["".join(rng.choice(rng.choice(SCRIPTS + MORE)) for _ in range(rng.randrange(1, 12))) for _ in range(1500)]
    return "\n".join(token_ids.EDGES) + " ".join(drawn)


class LlamaCpp:
    """A vocabulary as llama.cpp reads it; `pre`: instead of the pre-tokenizer that the file names."""

    def __init__(self, file: Path, pre: str | None = None) -> None:
        import llama_cpp

        self.library = llama_cpp
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        options = llama_cpp.llama_model_default_params()
        options.vocab_only = True
        changes = (llama_cpp.llama_model_kv_override * 2)()
        if pre is not None:
            changes[0].tag = 3  # a text
            changes[0].key = b"tokenizer.ggml.pre"
            changes[0].value.val_str = pre.encode()
            options.kv_overrides = changes
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        if self.model is None:
            raise ValueError(f"llama.cpp does not load {file} with pre-tokenizer {pre}")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, with the start token if the vocabulary has one."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        vocabulary = self.library.llama_model_get_vocab(self.model)
        count = self.library.llama_tokenize(vocabulary, data, len(data), ids, len(ids), True, True)
        return list(ids[:count])

    def close(self) -> None:
        """Give the memory back."""
        self.library.llama_model_free(self.model)


def with_numbers(source: Path, target: Path) -> None:
    """Write a file of metadata alone: the vocabulary of `source`, and all numbers of two and three digits. Without them
    no id would tell how a pre-tokenizer groups digits."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    lists = {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")}
    added = [number for number in NUMBERS if number not in set(lists["tokens"])]
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or field.types[0] == GGUFValueType.ARRAY:
            continue
        value = len(lists["tokens"]) + len(added) if name == "llama.vocab_size" else field.contents()
        writer.add_key_value(name, value, field.types[0])
    writer.add_array("tokenizer.ggml.tokens", lists["tokens"] + added)
    writer.add_array("tokenizer.ggml.token_type", lists["token_type"] + [1] * len(added))
    writer.add_array("tokenizer.ggml.merges", lists["merges"] + [f"{n[:-1]} {n[-1]}" for n in added])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def named(backend: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer with the pre-tokenizer of that name."""
    backend.pre_tokenizer = pre_tokenizer(name)
    backend.model.ignore_merges = name in IGNORE_MERGES
    return backend


def digest(ids: Sequence[int]) -> str:
    """A fingerprint of token ids."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Where two lists of ids part; "equal" if they do not."""
    if list(ours) == list(theirs):
        return f"{len(theirs)} ids equal"
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return f"DIFFERENT from id {at} on: {list(ours[at : at + 4])}, llama.cpp {list(theirs[at : at + 4])}"


def compare_file(file: Path) -> str:
    """One GGUF file over the quality text."""
    header: Header = read(file)
    text = texts.read(None, texts.QUALITY, Path()) + edge_text()
    tokenizer = tokenizer_files.from_gguf(file)
    assert tokenizer is not None
    model = LlamaCpp(file)
    answer = first_difference(tokenizer(text, verbose=False)["input_ids"], model.encode(text))
    model.close()
    return f"{file.name} ({header.pre_tokenizer or header.metadata['tokenizer.ggml.model']}): {answer}"


def compare_names(vocabulary: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Every name of the table over the edge cases: name, answer, llama.cpp's ids."""
    text, backend = edge_text(), token_ids.byte_level(vocabulary)
    for name in EXPRESSIONS:
        model = LlamaCpp(vocabulary, name)
        wanted = model.encode(text)
        model.close()
        # a start token of the group's is the file's affair
        wanted = wanted[1:] if wanted[:1] == [1] else wanted
        ours = named(backend, name).encode(text, add_special_tokens=False).ids
        yield name, first_difference(ours, wanted), wanted


def _lines(entries: Mapping[str, object]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())


def main() -> None:
    """Run the command; exit code 1 when an id differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="GGUF files; default: the default model's")
    parser.add_argument("--write", type=Path, help="keep llama.cpp's ids in this file")
    options = parser.parse_args()
    answers = [compare_file(file) for file in options.files or [gguf()]]
    print(*answers, sep="\n", flush=True)
    found = {}
    if not options.files:
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = Path(folder) / "vocabulary.gguf"
            with_numbers(gguf(), vocabulary)
            for name, answer, wanted in compare_names(vocabulary):
                answers.append(answer)
                found[name] = digest(wanted)
                print(f"{name}: {answer}", flush=True)
    if options.write:
        model = LlamaCpp(gguf())
        edges = {text: model.encode(text) for text in token_ids.EDGES}
        kept: dict[str, Mapping[str, object]] = {"ids": edges, "fingerprints": found}
        lines = [f'"{title}": {{\n{_lines(ids)}\n}}' for title, ids in kept.items()]
        options.write.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    sys.exit(any("DIFFERENT" in answer for answer in answers))


if __name__ == "__main__":
    main()

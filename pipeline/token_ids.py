"""Token ids by another way than transformers: what the checkpoint's own files say, read by other libraries.

The engine and the original share one tokenizer, so that no comparison of the two can see a wrong id. tokenizer.json is
read by the tokenizers library alone; of a GGUF file the vocabulary is read by gguf, and a byte-level BPE is made of it
with the pre-tokenizer that the file names. Vocabularies of sentencepiece are encoded by sentencepiece itself.
"""

from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made at run time
from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline import checkpoint, gguf_metadata, tokenizer_files
from pipeline.gguf_file import read_once
from pipeline.pre_tokenizers import ADD_BOS, IGNORE_MERGES, pre_tokenizer
from pipeline.spec import Model, Source

WHOLE = (TokenType.CONTROL, TokenType.USER_DEFINED)  # tokens that are found in a text before anything splits it
SPACE = "\u2581"
CHECKED = ("gpt2", "llama")  # tokenizer.ggml.model: byte-level BPE, sentencepiece
LETTERS = 40_000  # characters of the text that are compared: 8,192 tokens of English and more
SHOWN = 4

# texts that pre-tokenizers split differently
EDGES = (
    "a  12 b",
    "a\n\n1.",
    "x =  5\n\n\n  y\t\tz \n",
    "1 22 333 4444 55555 666666 7777777",
    "١٢٣٤ 12ⅷ ½3",
    "I'm you'RE we'Ll they'd 's it''s O'Ndur",
    "don\u2019t \u2018quoted\u2019 \u201cso\u201d ... !? (a,b) [x]{y} <z> $5 + ^~|` @#%",
    "naïve café e\u0301 Ünïcödé ǅungla ΑΒΓδ ЖЗи",
    "東京に行きました。 12月 中文\uff0c标点\uff01 한국어 문장",
    "हिन्दी में ภาษาไทย العربية \u06d4 12، ב",
    "emoji 😀👩‍👩‍👧 🇩🇪 end",
    "camelCase HTTPServer snake_case /path/to/file.py\r\n\r\n",
    " leading",
    "trailing ",
    "   \u3000\u00a0\u2003mixed spaces  ",
    "\ufeffmark \u200b zero \u0000 nul \u007f",
    "word\n",
    "\n\n\n",
    "    def f(self):\n        return 1_000.50e-10",
)


def _fields(path: Path) -> Any:
    with read_once():
        return gguf.GGUFReader(path).fields


def byte_level(path: Path) -> Backend:
    """A GGUF file's byte-level BPE, as the file describes it."""
    header = gguf_metadata.read(path)
    fields = _fields(path)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    name = header.pre_tokenizer or "default"
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Backend(BPE(vocabulary, merges, ignore_merges=name in IGNORE_MERGES))
    backend.pre_tokenizer = pre_tokenizer(name)
    backend.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"].contents() if "tokenizer.ggml.token_type" in fields else []
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind == TokenType.CONTROL)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in WHOLE
        ]
    )
    return backend


def sentencepiece(path: Path) -> SentencePieceProcessor:
    """A GGUF file's sentencepiece vocabulary, as sentencepiece itself reads it."""
    header = gguf_metadata.read(path)
    fields = _fields(path)
    values = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type"))
    prefix = not header.is_gemma and header.metadata.get("tokenizer.ggml.add_space_prefix", True)
    model = ModelProto()
    for token, score, kind in zip(*values, strict=True):
        # a GGUF file of Gemma spells tokens of several spaces with spaces
        model.pieces.add(piece=token.replace(" ", SPACE), score=score, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = any(piece.type == TokenType.BYTE for piece in model.pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    return SentencePieceProcessor(model_proto=model.SerializeToString())


def gguf_ids(path: Path, text: str) -> list[int]:
    """Tokens of a text by a GGUF file's own metadata, with the start token where it asks for one."""
    header = gguf_metadata.read(path)
    name = header.pre_tokenizer
    if name is None:
        ids, starts = list(sentencepiece(path).encode(text)), True
    else:
        ids, starts = byte_level(path).encode(text, add_special_tokens=False).ids, name in ADD_BOS
    start = header.metadata.get("tokenizer.ggml.bos_token_id")
    if start is None or not header.metadata.get("tokenizer.ggml.add_bos_token", starts):
        return ids
    return [start, *ids]


def by_the_files(model: Model, link: Path, text: str) -> tuple[str, list[int]] | None:
    """What is read, and a text's tokens by it; None for a model whose files only transformers reads."""
    if model.source is Source.gguf:
        path = link.resolve()
        kind = gguf_metadata.read(path).metadata.get("tokenizer.ggml.model")
        return (path.name, gguf_ids(path, text)) if kind in CHECKED else None
    file = checkpoint.tokenizer_json(model, link)
    return None if file is None else (file.name, tokenizer_files.read_json(file).encode(text).ids)


def findings(tokenizer: Tokenizer, model: Model, link: Path, text: str) -> list[str] | None:
    """How an artifact's tokenizer differs from the checkpoint's files, over the beginning of a text and over edge
    cases; empty when no id does, None when nothing but transformers reads the files. `link`: the point's `checkpoint`.
    0.5 s for SmolLM2, 2 s for 262,144 tokens."""
    checked = text[:LETTERS] + "\n".join(EDGES)
    found = by_the_files(model, link, checked)
    if found is None:
        return None
    name, wanted = found
    ids = list(tokenizer(checked, verbose=False)["input_ids"])
    if ids == wanted:
        return []
    at = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), min(len(ids), len(wanted)))
    before = tokenizer.decode(ids[max(0, at - SHOWN) : at])
    return [
        f"token ids differ from {name}'s own from token {at} on, behind {before!r}: "
        f"{ids[at : at + SHOWN]}, and {name} gives {wanted[at : at + SHOWN]}"
    ]

"""Check an artifact's token ids against the checkpoint's own files, read by other libraries than transformers.

The engine and the original share one tokenizer, so comparing them cannot show a wrong id. tokenizer.json is read by the
tokenizers library alone. The vocabulary of a GGUF file is read by gguf, and a byte-level BPE is made of it with the
pre-tokenizer that the file names. Sentencepiece vocabularies are encoded by sentencepiece itself.
"""

from collections.abc import Callable
from pathlib import Path

from gguf import TokenType
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made at run time
from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.checkpoint import gguf_metadata, tokenizer_files
from pipeline.checkpoint.gguf_metadata import BYTE_LEVEL, SENTENCEPIECE
from pipeline.checkpoint.gguf_reader import fields
from pipeline.checkpoint.pre_tokenizers import IGNORE_MERGES, pre_tokenizer
from pipeline.checkpoint.tokenizer import tokenizer_json
from pipeline.checkpoint.tokenizer_files import SPACE
from pipeline.core.schema import Model, Source

UNSPLIT = (TokenType.CONTROL, TokenType.USER_DEFINED)  # tokens that are found in a text before it is split
CHECKED = (BYTE_LEVEL, SENTENCEPIECE)  # tokenizer.ggml.model
COMPARED = 40_000  # characters of the text: at least 8,192 tokens of English
NEIGHBORS = 4  # tokens shown before a difference, and from it on

Encode = Callable[[str], list[int]]

# texts that pre-tokenizers split differently; each is also the beginning and the end of a text
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


def byte_level(path: Path) -> Backend:
    """The byte-level BPE that a GGUF file describes."""
    header = gguf_metadata.read(path)
    found = fields(path)
    tokens = found["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in found["tokenizer.ggml.merges"].contents()]
    name = header.pre_tokenizer or "default"
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Backend(BPE(vocabulary, merges, ignore_merges=name in IGNORE_MERGES))
    backend.pre_tokenizer = pre_tokenizer(name)
    backend.decoder = decoders.ByteLevel()
    kinds = found["tokenizer.ggml.token_type"].contents() if "tokenizer.ggml.token_type" in found else []
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind == TokenType.CONTROL)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in UNSPLIT
        ]
    )
    return backend


def sentencepiece(path: Path) -> SentencePieceProcessor:
    """A GGUF file's sentencepiece vocabulary in sentencepiece itself."""
    header = gguf_metadata.read(path)
    found = fields(path)
    values = (found[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type"))
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


def of_gguf(path: Path) -> Encode:
    """Text -> tokens by a GGUF file's own metadata, with the start and end tokens that it demands."""
    header = gguf_metadata.read(path)
    start, end = ([] if token is None else [token] for token in header.edge_tokens)
    if header.pre_tokenizer is None:
        processor = sentencepiece(path)
        return lambda text: [*start, *processor.encode(text), *end]
    backend = byte_level(path)
    return lambda text: [*start, *backend.encode(text, add_special_tokens=False).ids, *end]


def by_the_files(model: Model, link: Path) -> tuple[str, Encode] | None:
    """The file that is read, by name, and text -> tokens by it; None if only transformers reads the model's files."""
    if model.source is Source.gguf:
        path = link.resolve()
        kind = gguf_metadata.read(path).metadata.get("tokenizer.ggml.model")
        return (path.name, of_gguf(path)) if kind in CHECKED else None
    file = tokenizer_json(model, link)
    if file is None:
        return None
    backend = tokenizer_files.read_backend(file)
    return file.name, lambda text: list(backend.encode(text).ids)


def findings(tokenizer: Tokenizer, model: Model, link: Path, text: str) -> list[str] | None:
    """How an artifact's tokenizer differs from the checkpoint's files, on the beginning of a text and on each of EDGES.

    Empty when no id differs; None when only transformers reads the files. link: the point's `checkpoint`.
    """
    found = by_the_files(model, link)
    if found is None:
        return None
    name, encode = found
    texts = [text[:COMPARED], *EDGES]
    compared = [(list(tokenizer(each, verbose=False)["input_ids"]), encode(each)) for each in texts]
    differing = [i for i, (ids, wanted) in enumerate(compared) if ids != wanted]
    if not differing:
        return []
    first = differing[0]
    ids, wanted = compared[first]
    at = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), min(len(ids), len(wanted)))
    before = tokenizer.decode(ids[max(0, at - NEIGHBORS) : at])
    return [
        f"token ids differ from {name}'s own in {len(differing)} of {len(texts)} texts; "
        f"in {_excerpt(texts[first])} from token {at} on, after {before!r}: {ids[at : at + NEIGHBORS]}, "
        f"{name} gives {wanted[at : at + NEIGHBORS]}"
    ]


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")

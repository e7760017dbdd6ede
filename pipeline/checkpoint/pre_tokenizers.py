r"""How a byte-level BPE vocabulary wants text split first, by the name in a GGUF file's `tokenizer.ggml.pre`.

A GGUF file names its pre-tokenizer and does not hold it; what a name means is defined by llama.cpp's source. The table
follows it (llama-vocab.cpp of llama-cpp-python 0.3.36): a name stands for a list of regular expressions, each of which
splits what the ones before left whole. `python -m benchmarks.tokens` compares every name with llama.cpp.

Left out: names whose ids are not llama.cpp's by such a list (deepseek-llm, superbpe, tiny_aya, cohere2moe), names that
it splits in code of its own (kimi-k2, afmoe), and those of encoders and of vocabularies that are not byte-level.
"""

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = CASED % (f"{SHORT}?", f"{SHORT}?") + r"|\p{N}{1,3}" + SLASH
CJK = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|.,!?…。\uff0c、।\u06d4،)]+"
SPACES = "".join(rf"|\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1)) + r"|\s{1,2}(?!\S)|\s{1}"  # 512 to 4

# names that share a list of expressions
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("default", (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    (
        "gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum granite-docling jina-es jina-de "
        "jina-v2-es jina-v2-de",
        (GPT2,),
    ),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", (r"\p{N}", GPT2)),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe chatglm-bpe "
        "glm4 glm5",
        (LLAMA3,),
    ),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", (QWEN2,)),
    ("qwen35", (QWEN2.replace(r"\p{L}\p{N}]+[", r"\p{L}\p{M}\p{N}]+[").replace(r"?\p{L}+", r"?[\p{L}\p{M}]+"),)),
    ("ufakzeka", (QWEN2.removeprefix(SHORT + "|"),)),
    ("laguna", (r"[^\n]+|[\n]+", QWEN2)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", (GPT4O,)),
    ("tekken", (CASED % ("", "") + r"|\p{N}" + SLASH,)),
    ("jais-2", (SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + SPACES,)),
    (
        "deepseek-coder",
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"),
    ),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", (r"\p{N}{1,3}", CJK, DEEPSEEK3)),
    ("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")),
    ("bloom poro-chat gpt3-finnish", (BLOOM,)),
    ("viking", (BLOOM, r"\p{N}")),
    (
        "bailingmoe bailingmoe2 llada-moe",
        (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",),
    ),
    ("seed-coder", (SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)),
    (
        "exaone-moe",
        (
            SHORT + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
)
EXPRESSIONS = {name: expressions for names, expressions in GROUPS for name in names.split()}

_LLAMA3 = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}
# a piece of text that is a token is that token, whatever the merges make of it
IGNORE_MERGES = _LLAMA3 | {"tekken", "glm4", "glm5"}
# a text begins with the start token where the file does not say otherwise
ADD_BOS = _LLAMA3 | {"tekken"}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that a name stands for. Raises KeyError for a name that is not in the table."""
    splits = [Split(Regex(expression), "isolated") for expression in EXPRESSIONS[name]]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])

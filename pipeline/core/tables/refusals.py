"""Why a model is refused: the categories, what a user can do about each, and what a forward's parameters tell."""

from collections.abc import Mapping
from enum import StrEnum

from pipeline.core.errors import Refusal


class Category(StrEnum):
    """The property of a model that a static cache or an exported graph cannot be given to."""

    ENCODER = "bidirectional encoder"
    ENCODER_DECODER = "encoder-decoder"
    OTHER_TASK = "not a causal LM"
    UNKNOWN = "unknown to transformers"
    CONFIGURATION = "configuration"
    PACKAGES = "missing packages"
    INPUTS = "needs images or audio"
    RECURRENT = "recurrent state"
    INDEXER = "indexer cache"
    OWN_CACHE = "cache class of its own"
    POSITIONS = "positions of its own"
    EXPERTS = "mixture of experts"
    ATTENTION = "attention of its own"
    TRACING = "cannot be traced"


FIXES = {
    Category.ENCODER: "choose a decoder; the configuration of a checkpoint trained as one has is_decoder=true",
    Category.ENCODER_DECODER: "choose a model that generates without an encoder",
    Category.OTHER_TASK: "choose a decoder-only model",
    Category.UNKNOWN: "check the spelling, or install a newer transformers that has it",
    Category.CONFIGURATION: "correct the configuration; its defaults need not fit together",
    Category.PACKAGES: "install them in this environment, in versions that go with its transformers",
    Category.INPUTS: "choose the checkpoint of its text model, if there is one",
    Category.RECURRENT: "choose a model with recurrences of a kind that docs/models.md names",
    Category.INDEXER: "choose a model all of whose layers keep keys and values",
    Category.OWN_CACHE: "choose a model all of whose layers keep keys and values",
    Category.POSITIONS: "choose a model whose forward takes position_ids",
    Category.EXPERTS: "choose a model whose experts compute silu, gelu or relu between two products",
    Category.ATTENTION: "choose a model that takes transformers' attention functions",
    Category.TRACING: "choose another model or version of transformers; KVFORGE_TRACEBACK=1 shows where it fails",
}

STATES = {"state"}  # parameters of recurrent models, in place of a cache of transformers


def unsupported(architecture: str, why: str, category: Category) -> Refusal:
    """Return the problem that refuses a model, with the reason."""
    what = f"{architecture} cannot be given a static cache: {why}"
    return Refusal(what, "model", FIXES[category], category)


def needed_inputs(parameters: Mapping[str, bool]) -> str | None:
    """A reason where a forward needs more than the tokens. parameters: name -> whether it has no default."""
    needed = [name for name, need in parameters.items() if need and name != "input_ids"]
    return f"its forward needs {', '.join(needed)}" if needed else None


def other_state(parameters: Mapping[str, bool]) -> str | None:
    """A reason where a forward takes a recurrence's state in place of a cache."""
    states = STATES & parameters.keys()
    return f"its forward takes {', '.join(sorted(states))}, a state other than keys and values" if states else None

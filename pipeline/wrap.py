"""Stage wrap: checkpoint -> wrapped/, the exported program of the model behind the graph contract.

wrapped/ holds model.pt2 (weights included), signature.json, notes.json, generation_config.json and the tokenizer's
files.
"""

from pathlib import Path

from pipeline.checkpoint import early
from pipeline.core import layout, stage
from pipeline.core.files import atomic_folder
from pipeline.core.schema import Axes, Cache, Model, Precision, Wrap, section


def main() -> None:
    """Run the stage in a point's folder."""
    model, link = section(Model), Path(layout.CHECKPOINT)
    early.check(model, link)
    from pipeline.wrapping.program import wrap  # imports torch and transformers, which takes seconds

    with atomic_folder(Path(layout.WRAPPED)) as out:
        wrap(model, section(Axes), section(Cache), section(Precision), section(Wrap).logits, link, out)


if __name__ == "__main__":
    stage.run("wrap", main)

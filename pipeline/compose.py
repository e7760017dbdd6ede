"""Stage compose: conf/ and a point's overrides -> artifacts/<point>/params.yaml, and links to its checkpoint and
the texts that it is calibrated and measured on.

params.yaml is the resolved configuration; later stages read their sections from it, and DVC compares its values.
"""

import yaml
from omegaconf import DictConfig, OmegaConf

from pipeline.config import compose as config
from pipeline.config import points, sources
from pipeline.core import errors, usage
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import write_text
from pipeline.core.layout import PARAMS
from pipeline.core.schema import Model, Quantize, Verify, section
from pipeline.text import texts


def as_yaml(composed: DictConfig) -> str:
    """The configuration as plain YAML, without the keys that are not of the point itself: points that are equal have
    equal files."""
    values = OmegaConf.to_container(composed, enum_to_str=True)
    assert isinstance(values, dict)
    for key in points.NOT_OF_A_POINT:
        del values[key]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def main() -> None:
    """Compose the point named on the command line."""
    parser = usage.Parser(main, "compose", "POINT", "It runs in the root of the repository.")
    parser.add_argument("point", metavar="POINT", nargs="?", default="", help=f"a name in {points.FILE}")
    name = parser.parse().point
    known = points.read()
    if name not in known:
        raise UserError(Problem(f"there is no point {name!r}", str(points.FILE), f"choose one of {', '.join(known)}"))
    composed = config.compose(known[name])
    folder = points.ARTIFACTS / name
    write_text(folder / PARAMS, as_yaml(composed))
    sources.write_link(section(Model, folder), folder)
    texts.write_link(section(Verify, folder).quality.text, texts.QUALITY, folder)
    texts.write_link(section(Quantize, folder).calibration.text, texts.CALIBRATION, folder)


if __name__ == "__main__":
    errors.run(main)

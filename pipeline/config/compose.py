"""Compose conf/ and overrides into a checked Config; every mistake in them is reported at once.

Hydra composes; pipeline.config.rules knows what fits together. Hydra stops at its first mistake;
pipeline.config.diagnose then finds them all.
"""

import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import rules
from pipeline.config.diagnose import HYDRA_ERRORS, diagnose
from pipeline.config.keys import leaves, touches
from pipeline.core.errors import Problem, UserError, first_line
from pipeline.core.schema import Config, Source

CONF = Path("conf")
MAIN = "config"
REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # ${verify.gates.kl}

ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: Sequence[str], conf: Path = CONF) -> DictConfig:
    """The configuration that `conf` and these overrides declare, resolved and checked; its keys are those of Config.

    Raises one UserError with all problems found. A model that can change under its name is warned of on stderr.
    """
    problems: list[Problem] = []
    invalid_keys: set[str] = set()
    with _hydra(conf) as loader:
        try:
            composed = hydra.compose(MAIN, list(overrides))
            plain = OmegaConf.to_container(composed)  # without the types, which would let +axes.foo=1 pass
            config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), plain))
        except HYDRA_ERRORS as error:
            config, invalid_keys, problems = diagnose(overrides, conf, MAIN, loader, error)
    references = {
        key: REFERENCE.findall(value)
        for key, value in leaves(OmegaConf.to_container(config))
        if isinstance(value, str) and "${" in value
    }
    problems += _resolve(config, references, invalid_keys)
    problems += rules.check(config, invalid_keys, references)
    if problems:
        raise UserError(problems)
    model = config.model
    if model.source is Source.hub and not rules.COMMIT.fullmatch(model.revision):
        what = f"model.revision={model.revision} of {model.id} can move"
        print(f"warning: {what}; give the hash of a commit to pin it", file=sys.stderr)
    return config


def expand(overrides: Sequence[str], conf: Path = CONF) -> list[list[str]]:
    """The overrides of each job of a sweep: `model=a,b` makes two jobs. What cannot be read is left for `compose`.

    An experiment may name values to sweep over, as hydra.sweeper.params does; an override of such a key comes first.
    """
    choices: list[list[str]] = []
    with _hydra(conf) as loader:
        parser = OverridesParser.create(loader)
        for text in [*overrides, *_swept(overrides)]:
            choices.append([text])
            try:
                (override,) = parser.parse_overrides([text])  # this one gives glob(...) the groups to look into
            except HydraException:
                continue
            if override.is_discrete_sweep():
                choices[-1] = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [list(job) for job in itertools.product(*choices)]


def _swept(overrides: Sequence[str]) -> list[str]:
    """The values that the configuration sweeps over, as overrides; without those of keys that are given."""
    experiment = [text for text in overrides if text.startswith("experiment=") and "," not in text]
    try:
        params = hydra.compose(MAIN, experiment, return_hydra_config=True).hydra.sweeper.params
    except HYDRA_ERRORS:  # `compose` reports it
        return []
    keys = {text.lstrip("+~").partition("=")[0] for text in overrides}
    return [f"{key}={value}" for key, value in (params or {}).items() if key not in keys]


@contextmanager
def _hydra(conf: Path) -> Iterator[ConfigLoader]:
    """Hydra set up for a folder of configurations."""
    if not (conf / f"{MAIN}.yaml").exists():
        raise UserError(Problem(f"there is no {conf / MAIN}.yaml", str(conf), "run from the root of the repository"))
    with hydra.initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _resolve(config: DictConfig, references: Mapping[str, Sequence[str]], invalid_keys: set[str]) -> list[Problem]:
    """Replace interpolations by their values, in place. One that has none is a problem; its key becomes invalid."""
    problems = []
    for key, others in references.items():
        try:
            OmegaConf.update(config, key, OmegaConf.select(config, key))
        except OmegaConfBaseException as error:
            if not any(touches(other, invalid_keys) for other in others):  # else that one is reported
                raw = dict(leaves(OmegaConf.to_container(config)))[key]
                fix = "name a key that exists and has the right type, or give the value itself"
                problems.append(Problem(f"{key}={raw}: {first_line(error)}", key, fix))
            invalid_keys.add(key)
    return problems

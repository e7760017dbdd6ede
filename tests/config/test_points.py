"""points: names, and what is written to params.yaml."""

import multiprocessing
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config import points
from pipeline.core.errors import UserError
from tests.support.repository import ROOT, make

CONF = ROOT / "conf"
DEFAULT: dict[str, list[str]] = {"smollm2": []}
KEYS = st.sampled_from(["model", "+cache", "axes.batch", "verify.gates.kl", "bench.batch"])
OVERRIDES = st.lists(st.builds("{}={}".format, KEYS, st.text(max_size=12)), max_size=6)


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=tiny_llama"], "tiny_llama"),
        (["model=tiny_llama", "precision=fp16"], "tiny_llama-fp16"),
        (["experiment=tiny", "cache.size=128"], "tiny-cache_size_128"),
        (["verify.gates.kl=1e-3"], "verify_gates_kl_1e-3"),
        (["verify.prompts=[Hello, you]"], "verify_prompts__Hello_you"),
        (["+model.config.attention_bias=true"], "model_config_attention_bias_true"),
        ([], "smollm2"),
    ],
)
def test_names_come_from_the_overrides(overrides: list[str], name: str) -> None:
    """A group gives its option, a key gives key_value, and no overrides are the point that has none."""
    assert points.name_of(overrides, DEFAULT, CONF) == name


def test_a_known_list_of_overrides_keeps_its_name() -> None:
    """The same overrides, in whatever order of sections, are the same point."""
    known = {"mine": ["model=tiny_llama", "axes.batch=2"]}
    assert points.name_of(["axes.batch=2", "model=tiny_llama"], known, CONF) == "mine"


def test_order_counts_within_a_section() -> None:
    """Of two values for one key the later holds, so these are different points."""
    assert not points.equivalent(["axes.batch=1", "axes.batch=2"], ["axes.batch=2", "axes.batch=1"])


def test_a_taken_name_is_refused() -> None:
    """A derived name that means something else already asks for point=."""
    with pytest.raises(UserError, match="point=name"):
        points.name_of(["model=tiny_llama"], {"tiny_llama": ["axes.batch=2"]}, CONF)


def test_a_long_name_ends_in_a_hash() -> None:
    """The jobs of a sweep with many overrides have names all the same, each its own."""
    many = [f"verify.gates.kl={number}" for number in range(1, 20)]
    one, other = (points.name_of([*many, f"cache.size={size}"], {}, CONF) for size in (64, 128))
    assert len(one) <= points.LONGEST
    assert points.NAME.fullmatch(one)
    assert one != other
    assert one[:80] == other[:80]


@given(OVERRIDES)
def test_every_derived_name_is_legal(overrides: list[str]) -> None:
    """Whatever the overrides hold, the name is one that DVC, YAML and a file system take."""
    assume(sum(len(text) + 1 for text in overrides) <= points.LONGEST)  # longer ones may be refused, see above
    assert points.NAME.fullmatch(points.name_of(overrides, {}, CONF))


@given(OVERRIDES)
def test_same_is_about_sections(overrides: list[str]) -> None:
    """Moving whole sections about changes nothing."""
    sections = sorted({re.split("[.=]", text.lstrip("+"))[0] for text in overrides}, reverse=True)
    moved = [text for section in sections for text in overrides if re.match(rf"\+?{section}[.=]", text)]
    assert points.equivalent(overrides, moved)


def test_record_all_writes_once() -> None:
    """Several points at once, some known, some new."""
    points.record_all({"b": ["x=1"], "a": [], "smollm2": []})
    assert points.read() == {"a": [], "b": ["x=1"], "smollm2": []}


def test_a_points_own_overrides() -> None:
    """Neither a point's name nor what concerns Hydra itself belongs to a point."""
    given = ["point=x", "+point=y", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "pointless=1", "cache=2k"]
    assert points.point_overrides(given) == ["pointless=1", "cache=2k"]


def test_record_keeps_order_and_comments() -> None:
    """A new point goes where the alphabet wants it, and comments stay."""
    points.record("tiny", ["experiment=tiny"])
    points.record("fp16", ["precision=fp16", "verify.prompts=[a: b]"])
    text = points.FILE.read_text()
    assert text.startswith("# what has been asked for\n")
    assert list(yaml.safe_load(text)["points"]) == ["fp16", "smollm2", "tiny"]
    assert points.read() == {
        "smollm2": [],
        "tiny": ["experiment=tiny"],
        "fp16": ["precision=fp16", "verify.prompts=[a: b]"],
    }


def test_record_touches_nothing_without_need() -> None:
    """A point that says so already leaves the file as it is, so that DVC sees no change."""
    points.record("tiny", ["experiment=tiny", "cache.size=128"])
    before = points.FILE.stat()
    points.record("tiny", ["cache.size=128", "experiment=tiny"])
    assert points.FILE.stat() == before


def test_rename_and_drop_keep_comments() -> None:
    """A renamed point stays in its place; comments that are not a dropped point's stay."""
    points.FILE.write_text("# all\npoints:\n  a: [x=1]\n  # the second\n  b: []\n  c: []\n", encoding="utf-8")
    points.rename("b", "z")
    assert list(points.read()) == ["a", "z", "c"]
    points.drop(["a", "c"])
    assert points.read() == {"z": []}
    assert "# all" in points.FILE.read_text(encoding="utf-8")


def test_record_redefines() -> None:
    """A name that is given explicitly takes the new overrides."""
    points.record("smollm2", ["precision=fp16"])
    assert points.read() == {"smollm2": ["precision=fp16"]}


@pytest.mark.parametrize("name", ["1", "true", "1e3", "null", "-x"])
def test_names_that_yaml_could_misread(name: str) -> None:
    """A name that looks like a number or a truth value is read back as text."""
    points.record(name, [])
    assert name in points.read()


def test_record_from_many_processes() -> None:
    """Jobs of a parallel launcher lose none of each other's points."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(points.record, [(f"p{i}", [f"cache.size={i}"]) for i in range(20)])
    assert points.read() == {"smollm2": []} | {f"p{i}": [f"cache.size={i}"] for i in range(20)}


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("points: [\n", "params.yaml:2", "not YAML"),
        ("", "params.yaml", "not a mapping"),
        ("points: [a]\n", "params.yaml", "not a mapping"),
        ("points: {a.b: []}\n", "params.yaml: points.a.b", "cannot be called 'a.b'"),
        ("points: {1: []}\n", "params.yaml: points.1", "cannot be called 1"),
        ("points: {a: cache=2k}\n", "params.yaml: points.a", "not a list of texts"),
        ("points: {a: [1]}\n", "params.yaml: points.a", "not a list of texts"),
    ],
)
def test_a_mistaken_file(text: str, where: str, says: str) -> None:
    """A params.yaml of another form is a user's mistake with a place."""
    points.FILE.write_text(text)
    with pytest.raises(UserError) as error:
        points.read()
    (problem,) = error.value.problems
    assert problem.where == where
    assert says in problem.what


def test_no_file() -> None:
    """Without params.yaml the message says where to stand, and nothing is written."""
    points.FILE.unlink()
    with pytest.raises(UserError, match="root of the repository"):
        points.read()
    before = sorted(Path().iterdir())
    with pytest.raises(UserError, match="root of the repository"):
        points.record("tiny", [])
    assert sorted(Path().iterdir()) == before


def test_the_projects_own_file() -> None:
    """The file that is delivered starts with the default model."""
    delivered = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["points"]
    assert next(iter(delivered.items())) == ("smollm2", [])

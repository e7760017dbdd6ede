"""results: a figure is in the table of metrics, and a missed gate names figure, place and config key."""

import json
import math

import pytest

from pipeline.core.contract import contract_for
from pipeline.proof.metrics import METRICS
from pipeline.proof.results import QUALITY, Limit, Result, limits, limits_of, with_cache
from tests.support.gates import cache_gates, gates, quality

GATES = gates(kl=1e-8, greedy_agreement=0.97)


def test_limits_of_each_section() -> None:
    """By metric, whose name may differ from the key's."""
    options = quality(perplexity=0.1, kl=0.2)
    assert limits(GATES, "verify.quantized_gates")["kl"] == Limit(1e-8, "verify.quantized_gates.kl")
    held = limits(options, QUALITY)
    assert held["perplexity_increase"] == Limit(0.1, "verify.quality.perplexity")
    assert held["mean_kl"] == Limit(0.2, "verify.quality.kl")
    assert limits(GATES).keys() | held.keys() == {m.name for m in METRICS.values() if m.section}


@pytest.mark.parametrize(
    ("name", "found", "failures"),
    [
        ("kl", [(0.0, "step 0"), (1e-8, "step 1")], []),
        ("kl", [(0.0, "step 0"), (3e-8, "step 1")], ["kl is 3e-08 in step 1, verify.gates.kl is 1e-08"]),
        ("greedy_agreement", [(1.0, "row 0"), (0.97, "row 1")], []),
        (
            "greedy_agreement",
            [(0.5, "row 0"), (1.0, "row 1")],
            ["greedy_agreement is 0.5 in row 0, verify.gates.greedy_agreement is 0.97"],
        ),
        ("kl", [(9.0, "step 0"), (math.nan, "step 1")], ["step 1 is not finite"]),
        ("greedy_agreement", [(0.0, "row 0"), (math.inf, "row 1")], ["row 1 is not finite"]),
    ],
)
def test_a_gate_holds_the_worst_value(name: str, found: list[tuple[float, str]], failures: list[str]) -> None:
    """The largest error and the smallest share; what is not finite fails whatever the gate."""
    result = Result()
    result.gate(name, found, limits(GATES)[name])
    assert result.failures == failures
    assert result.as_dict()["passed"] == (not failures)
    assert result.not_finite == (found[1][1] if failures and "finite" in failures[0] else "")


def test_an_artifact_says_what_it_was_held_to() -> None:
    """The limits of all its cases, in the order of the metrics; a case that was left out has none."""
    cases = {"greedy 0": Result(), "prefill": Result(), "other": Result(not_run="no")}
    cases["greedy 0"].gate("greedy_agreement", [(1.0, "row 0")], limits(GATES)["greedy_agreement"])
    cases["prefill"].gate("kl", [(9.0, "step 0")], limits(GATES)["kl"])
    assert list(limits_of(cases).items()) == [(name, limits(GATES)[name]) for name in ("kl", "greedy_agreement")]


def test_a_figure_that_is_not_in_the_table_is_a_bug() -> None:
    """Otherwise nobody would know which way it is worse."""
    with pytest.raises(KeyError, match="top5"):
        Result().record("top5", 0.5)


def test_one_tensor_is_named_once() -> None:
    """However many figures it spoils; the first tensor is kept."""
    result = Result()
    for name in ("logits_error", "kl"):
        result.gate(name, [(math.nan, "logits, step 0, row 0")], limits(GATES)[name])
    result.gate("cache_error", [(math.inf, "past_key_values.0.key, row 0")], limits(GATES)["cache_error"])
    assert result.failures == ["logits, step 0, row 0 is not finite", "past_key_values.0.key, row 0 is not finite"]
    assert result.not_finite == "logits, step 0, row 0"


def test_a_report_is_json() -> None:
    """Numbers that are not finite as text, a traceback as lines, and a case that was left out by its reason alone."""
    result = Result(["x"], {"kl": math.nan, "top1": 0.5}, traceback="a\nb\n", widened={"kl": 0.5})
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == {
        "passed": False,
        "kl": "nan",
        "top1": 0.5,
        "failures": ["x"],
        "widened": {"kl": 0.5},
        "traceback": ["a", "b"],
    }
    assert Result(not_run="needs 2 rows").as_dict() == {"not_run": "needs 2 rows"}


@pytest.mark.parametrize(("bits", "name"), [(8, "int8"), (4, "int4")])
def test_a_quantized_cache_widens_gates_and_narrows_none(bits: int, name: str) -> None:
    """Its own key is then in the failure; without such a cache all gates stay."""
    contract = contract_for([{"key": (1, 4, 2), "value": (1, 4, 2)}], 9, "fp32", "last", {"batch": 1, "sequence": 1})
    costs = cache_gates(
        name, logits_error=0, kl=0.5, cache_error=0, greedy_agreement=0.9, perplexity_increase=0.3, mean_kl=0, top1=1
    )
    known = limits(GATES) | limits(quality(perplexity=0.1), QUALITY)
    assert with_cache(known, contract, costs) == known
    found = with_cache(known, contract.quantized(bits, {"past_key_values.0.key": [[1.0, 1.0]]}), costs)
    changed = {metric: limit for metric, limit in found.items() if limit != known[metric]}
    assert changed == {
        metric: Limit(value, f"verify.cache_gates.{name}.{metric}")
        for metric, value in (("kl", 0.5), ("greedy_agreement", 0.9), ("perplexity_increase", 0.3))
    }

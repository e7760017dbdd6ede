"""What launchers are told."""

import pytest

from pipeline.sweeps.launchers import BASIC, Needs, overrides, shares_this_machine

GB = 2**30


@pytest.mark.parametrize(
    ("needs", "at_once", "each"),
    [
        (Needs(GB, 64 * GB, 8, 12), 8, 1),  # a core each
        (Needs(GB, 64 * GB, 8, 2), 2, 4),  # few jobs have several
        (Needs(20 * GB, 64 * GB, 8, 12), 2, 4),  # memory is the limit, with what is spared
        (Needs(80 * GB, 64 * GB, 8, 12), 1, 8),  # the check of sizes has said so already
        (Needs(0, 64 * GB, 2, 12), 2, 1),  # sizes are not known
    ],
)
def test_jobs_at_once(needs: Needs, at_once: int, each: int) -> None:
    """Cores, memory and jobs each limit it."""
    assert (needs.at_once, needs.cores_each) == (at_once, each)


def test_each_launcher_is_told_in_its_own_keys() -> None:
    """What a user has given stays, and other launchers get nothing."""
    needs = Needs(3 * GB, 64 * GB, 8, 4)
    assert overrides("joblib", needs, []) == ["hydra.launcher.n_jobs=4"]
    assert overrides("joblib", needs, ["hydra.launcher.n_jobs=2"]) == []
    assert overrides("submitit_local", needs, []) == ["hydra.sweeper.max_batch_size=4"]
    assert "hydra.launcher.mem_gb=4" in overrides("submitit_slurm", needs, [])
    ray = overrides("ray", needs, ["+hydra.launcher.ray.remote.num_cpus=3"])
    assert ray == [f"+hydra.launcher.ray.remote.memory={int(3 * GB * 1.15)}"]
    assert overrides("another", needs, []) == []


def test_who_shares_this_machine() -> None:
    """Slurm and Ray divide cores themselves."""
    assert [shares_this_machine(name) for name in (BASIC, "joblib", "submitit_slurm", "ray")] == [
        False,
        True,
        False,
        False,
    ]

"""Every race builds, does the same work on both sides, and finds a finite number on each."""

import math
from importlib import import_module
from itertools import islice

import pytest
import torch

from experiments.benchmarks.__main__ import HEAD
from experiments.benchmarks.race import Absent, Cost, Race, Result, in_words, row

TINY = {
    "unets": {"width": 32, "side": 8, "batch": 2},
    "sampling": {"width": 16, "side": 8, "n": 2, "steps": 3},
    "flows": {"width": 24, "side": 8, "batch": 4, "steps": 2},
    "players": {"width": 8, "side": 8, "batch": 4, "steps": 2},
}


def races_of(subject: str) -> list[Race | Absent]:
    torch.manual_seed(0)
    return list(import_module(f"experiments.benchmarks.{subject}").races(**TINY[subject]))


@pytest.mark.parametrize("subject", TINY)
def test_both_sides_find_a_finite_number_with_equal_networks(subject: str) -> None:
    found = [race for race in races_of(subject) if isinstance(race, Race)]
    if not found:
        pytest.skip("none of its peers is installed")
    for race in found:
        ours, theirs = race.ours(), race.theirs()
        assert math.isfinite(ours) and math.isfinite(theirs), (race.work, race.peer)
        parameters, others = (cost.parameters for cost in race.costs)
        assert 0.95 < parameters / others < 1.05, (race.peer, parameters, others)
        if race.comparable:
            assert ours == pytest.approx(theirs, rel=1e-3)


def test_the_races_of_a_gpu_run_on_a_cpu_too() -> None:
    """At sizes that say nothing: both sides find finite numbers, and sampling the same ones; then come races that have
    their own tests."""
    pytest.importorskip("diffusers")
    gpu = import_module("experiments.benchmarks.gpu")
    races = gpu.races(width=32, side=8, batches=(2,), steps=1, n=2, calls=2, device="cpu")
    rate, example, sampling = islice(races, 3)
    assert math.isfinite(rate.ours()) and math.isfinite(rate.theirs()) and math.isfinite(example.theirs())
    assert sampling.ours() == sampling.theirs()


def test_a_whole_loop_is_timed_after_its_first_half() -> None:
    assert 0 < import_module("experiments.benchmarks.loops").ours(32, 8, 2, 2, torch.device("cpu"), 16) < 10


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_its_race_says_so() -> None:
    (absent,) = import_module("experiments.benchmarks.gpu").races()
    assert "no CUDA device" in absent.why


def test_sampling_beside_the_scheduler_is_the_same_work() -> None:
    """With one network: the samples agree, and so do the multiply-adds."""
    pytest.importorskip("diffusers")
    race = races_of("sampling")[0]
    assert race.comparable and race.costs[0] == race.costs[1]
    assert race.ours() == pytest.approx(race.theirs(), rel=1e-4)


def test_a_peer_that_is_not_there_gets_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.benchmarks.unets.PEERS", {"theirs": ("no_such_package", None)})
    (race,) = races_of("unets")
    assert "not raced: No module named 'no_such_package'" in row(race, 1)
    assert row(race, 1).count("|") == HEAD.splitlines()[0].count("|")


def test_the_ratio_is_per_multiply_add_where_these_differ() -> None:
    def cells(ours: float) -> str:
        costs = Cost(10, ours), Cost(10, 1e9)
        return in_words(Race("work", "peer", int, int, costs), Result([1.0], [3.0], math.nan))

    assert "**3.00**" in cells(0.96e9) and "per multiply-add" not in cells(0.96e9)
    assert "**1.50**" in cells(0.5e9) and "per multiply-add" in cells(0.5e9)
    assert cells(1e9).count("|") == HEAD.splitlines()[0].count("|")


def test_a_run_and_a_bare_loop_take_turns() -> None:
    """Both warm up once, then are timed as often."""
    (race,) = import_module("experiments.benchmarks.overhead").races(steps=(1,), sizes=(8,))
    result = race.measured(1)
    assert len(result.ours) == len(result.theirs) == 1
    assert min(result.ours + result.theirs) > 0
    assert in_words(race, result).startswith("| 8 steps of a DDPM's loop, 1x8x8 | bare loop |")

"""Runs are one setting when their configurations agree on all but seeds and places, whatever they are called."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genzoo.report.runs import Run
from genzoo.report.settings import essence, names, settings, trained, words


def config(seed: int, **more: Any) -> dict[str, Any]:
    """A configuration as genzoo.run writes it: the seed and the folder stand in many places."""
    folder = f"outputs/demo/model=vae/seed={seed}"
    return {
        "study": "demo",
        "seed": seed,
        "folder": folder,
        "model": {"_target_": "genzoo.models.vae.VAE", "norm": {"path": "genzoo.nets.conv.identity"}, "lr": 1e-3},
        "data": {"name": "digits", "seed": seed, "root": "/data"},
        "callbacks": {"judge": {"path": f"{folder}/samples.png"}, "last": {"folder": f"{folder}/checkpoints"}},
        "logger": {"wandb": {"name": f"vae-digits-{seed}"}},
    } | more


def run(given: dict[str, Any], place: str = "", added: tuple[str, ...] = (), **provenance: Any) -> Run:
    """added: the overrides of a second scoring."""
    place = place or str(given["folder"])
    overrides = [*provenance.pop("overrides", []), *added]
    metrics = {"provenance": {"family": "vae", "overrides": overrides, **provenance}}
    return Run(Path(place), place, "finished", given, metrics, variant="-ab" if added else "", added=added)


def seeds(runs: list[Run]) -> list[list[object]]:
    return [[run.seed for run in same] for same in settings(runs)]


def test_seeds_of_one_configuration_are_one_setting_in_their_order() -> None:
    assert seeds([run(config(seed), overrides=[f"seed={seed}", f"tag={seed}"]) for seed in (10, 2, 0)]) == [[0, 2, 10]]


def change(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    *above, last = path.split(".")

    def apply(given: dict[str, Any]) -> None:
        for key in above:
            given = given[key]
        given[last] = value

    return apply


@pytest.mark.parametrize("path", ["study", "logger", "data.root", "data.seed", "metrics", "callbacks.split_seed"])
def test_places_and_loggers_do_not_part_runs(path: str) -> None:
    other = config(1)
    change(path, "else")(other)
    assert seeds([run(config(0)), run(other)]) == [[0, 1]]


@pytest.mark.parametrize("path", ["model.lr", "model.norm.path", "data.name", "budget"])
def test_all_else_parts_them(path: str) -> None:
    other = config(1)
    change(path, "else")(other)
    assert seeds([run(config(0)), run(other)]) == [[0], [1]]


def test_a_seed_run_twice_is_not_two_seeds() -> None:
    again = run(config(0), place="elsewhere/seed=0")
    found = settings([run(config(0)), run(config(1)), again])
    assert [[r.place for r in same] for same in found] == [
        ["outputs/demo/model=vae/seed=0", "outputs/demo/model=vae/seed=1"],
        ["elsewhere/seed=0"],
    ]
    assert names(found) == ["VAE (outputs/demo/model=vae/seed=0)", "VAE (elsewhere/seed=0)"]


def test_a_run_sampled_otherwise_is_another_setting_over_its_seeds() -> None:
    runs = [
        record
        for seed in (0, 1)
        for record in (
            run(config(seed), sampling="50 steps", overrides=["model=vae", f"seed={seed}"]),
            run(config(seed), added=("steps=5",), sampling="5 steps", overrides=["model=vae", f"seed={seed}"]),
        )
    ]
    own, again = settings(runs)
    assert [[r.added for r in same] for same in (own, again)] == [[(), ()], [("steps=5",)] * 2]
    assert trained([again, own]) == ([own], [again])
    assert names([own]) == ["VAE"]


def test_what_a_second_scoring_asked_for_parts_it_even_where_the_words_are_the_same() -> None:
    own, other = (run(config(seed), added=("sampler.eta=1",) * seed, sampling="ddim, 50 steps") for seed in (0, 1))
    assert seeds([own, other]) == [[0], [1]]


def test_another_protocol_or_machine_is_no_other_sampling() -> None:
    again = run(config(1), added=("metrics=standard", "features=wide", "device=cpu"), sampling="ddim, 50 steps")
    assert seeds([run(config(0), sampling="ddim, 50 steps"), again]) == [[0, 1]]


def test_without_its_own_sampling_a_training_stands_by_its_most_network_calls() -> None:
    few, many, other = (
        replace(run(config(0), place, added=(f"steps={n}",)), metrics={"cost": {"nfe": n}, "scores": {}})
        for place, n in (("a", 5), ("a", 50), ("b", 9))
    )
    assert trained([[few], [many], [other]]) == ([[many], [other]], [[few]])


def test_words_of_what_was_asked() -> None:
    assert words(["sampler=heun", "steps=10", "grid=karras", "model.steps=3"]) == [
        "heun",
        "10 steps",
        "grid=karras",
        "model.steps=3",
    ]


def test_the_essence_names_no_seed_and_no_place() -> None:
    assert essence(config(0)) == {
        "model._target_": "genzoo.models.vae.VAE",
        "model.norm.path": "genzoo.nets.conv.identity",
        "model.lr": 1e-3,
        "data.name": "digits",
    }

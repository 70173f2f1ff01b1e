"""Which code a configuration may have called: what conf/ names passes, every way to a command does not."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from genzoo.command import conf_folder
from genzoo.trust import check

CONF = Path(conf_folder())
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
METHOD = "hydra.utils.get_method"

REFUSED = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "subprocess.Popen",
    "functools.partial",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.loads",
    "numpy.load",
    "torch.load",
    "torch.hub.load",
    "torch.os.system",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load",
    "torch.nn.modules.module.os.system",
    "torch.nn.attention._fa3._fa3_import_module",
    "torch.nn.functional.importlib.import_module",
    "torch.optim.optimizer.torch.load",
    "torch.nn.functional.handle_torch_function",  # defined in torch.overrides
    "genzoo.nets.conv.nn.Linear",  # harmless, but by a detour
    "nflows.transforms.base.torch.load",
    "genzoo.runs.os.system",
    "genzoo.nets.conv.torch.hub.load",
    "genzoo.models.vae.VAE.load_from_checkpoint",  # unpickles
    "genzoo.runs.build",
    "genzoo.runs.write_json",  # writes anywhere
    "genzoo.files.write_bytes",
    "genzoo.files.sweep_parts",
    "genzoo.data.idx.download",
    "genzoo.metrics.cache.keep",
    "genzoo.metrics.features.load_classifier",
    "genzoo.processes.launch",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "hydra.utils.get_method",  # without a path here, where it could be judged
    "genzoo",
    "genzoo.nets",
    "genzoo.nets..Encoder",
    "genzoo.nets.conv.Missing",
    "genzoo.nets.missing.Encoder",
    "",
    None,
    7,
    ["os.system"],
]
WRAPPED = [  # how deep it may hide
    lambda node: node,
    lambda node: {"net": {"layers": [LINEAR, [LINEAR, node]]}},
    lambda node: {**LINEAR, "_args_": [node]},
    lambda node: {**LINEAR, "bias": {"_convert_": "all", "inner": node}},
]


@pytest.mark.parametrize("target", REFUSED, ids=str)
def test_code_from_elsewhere_is_refused(target: object) -> None:
    for wrap in WRAPPED:
        for more in ({}, {"_partial_": True}, {"_args_": ["true"], "path": "genzoo.nets.conv.zero", "_partial_": True}):
            with pytest.raises(ValueError, match=r"_target_=.* may not be called.*only if you trust .*allow="):
                check({"model": wrap({"_target_": target, **more})})


@pytest.mark.parametrize(
    "lookup",
    [
        {"path": "os.system"},
        {"path": "genzoo.runs.os.system"},
        {"path": "torch.load"},
        {"path": "torch.float32.__class__"},
        {"path": "genzoo.nets.conv.identity", "_partial_": True},  # whose path a caller may exchange
        {"path": "genzoo.nets.conv.identity", "_args_": ["os.system"]},
        {"path": {"_target_": "genzoo.nets.conv.identity"}},
        {"_args_": ["os.system"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["get_method", "get_class", "get_object"])
def test_lookups_are_judged_by_what_they_find(name: str, lookup: dict) -> None:
    with pytest.raises(ValueError, match=r"model\.(path|_target_)=.* may not be called"):
        check({"model": {"_target_": f"hydra.utils.{name}", **lookup}})


@pytest.mark.parametrize(
    "node",
    [
        LINEAR,
        {"_target_": "torch.nn.functional.silu", "_partial_": True},
        {"_target_": "torch.optim.AdamW", "_partial_": True},
        {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 1},
        {"_target_": "nflows.distributions.StandardNormal", "shape": [2]},
        {"_target_": METHOD, "path": "genzoo.nets.conv.identity"},
        {"_target_": "hydra.utils.get_object", "path": "torch.float64"},
        {"_target_": "genzoo.diffusion.schedules.cosine", "steps": 3},
    ],
    ids=lambda node: node["_target_"],
)
def test_harmless_code_is_let_through_and_hydra_finds_it(node: dict) -> None:
    check({"model": [node]})
    assert instantiate(node, _convert_="all") is not None


GROUPS = ("model", "data", "sampler", "spacing", "head", "nets", "features", "metrics", "trainer", "logger")


def every_choice() -> Iterator[tuple[str, ...]]:
    """Overrides that together name each file of conf's groups, one of each group at a time."""
    files = {group: sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in GROUPS}
    for i in range(max(map(len, files.values()))):
        yield tuple(f"{group}={names[i % len(names)]}" for group, names in files.items())


@pytest.mark.parametrize("overrides", every_choice(), ids=",".join)
def test_whatever_conf_offers_is_let_through(overrides: tuple[str, ...], settings, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    check(settings(*overrides, *(["data.path=/p"] if "data=folder" in overrides else [])))


def test_alternatives_named_in_comments_are_let_through() -> None:
    text = "".join(file.read_text() for file in CONF.glob("*/*.yaml"))
    named = set(re.findall(r"genzoo\.(?:models|nets|diffusion)\.\w+\.\w+", text))
    assert len(named) > 50
    for target in named:
        check({"_target_": target})


def test_users_own_code_has_to_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not even imported before; and to allow it does not allow what it imports."""
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets/__init__.py").write_text("")
    (tmp_path / "mynets/small.py").write_text("import os\nclass Net:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"net": {"_target_": "mynets.small.Net"}}}
    for allow in ((), ("mynet",), ("mynets.other",)):
        with pytest.raises(ValueError, match=r"model\.net\._target_=mynets\.small\.Net .*allow=\[mynets\]"):
            check(config, allow)
        assert "mynets.small" not in sys.modules
    for allow in (("mynets",), ["torch", "mynets.small"], "mynets"):
        check(config, allow)
    with pytest.raises(ValueError, match="may not be called"):
        check({"model": {"_target_": "mynets.small.os.system"}}, ["mynets"])


def test_nothing_is_imported_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "hostile.py").write_text(f"open({str(canary)!r}, 'w')\ndef model():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="may not be called"):
        check({"model": {"_target_": "hostile.model"}})
    assert not canary.exists()


@pytest.mark.parametrize("hidden", [lambda s: s, lambda s: [{"a": s}], lambda s: {**LINEAR, "bias": f"x{s}"}])
def test_interpolations_are_refused(hidden) -> None:
    with pytest.raises(ValueError, match=r"data.*\$\{oc\.env:HF_TOKEN\} is an interpolation"):
        check({"data": hidden("${oc.env:HF_TOKEN}")})


def test_endless_configurations_are_refused() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
    )
    for text in (bomb, "&a [*a]", "&a {b: *a}"):
        with pytest.raises(ValueError, match="no run wrote it"):
            check(yaml.safe_load(text))

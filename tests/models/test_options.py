"""Every alternative that a family's YAML names trains for a few batches, then samples and copies like the default."""

import copy
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

import genzoo
from genzoo import runs
from genzoo.generator import HasAfterFit
from genzoo.run import make_trainer

LOSS = "model.adversarial._target_=genzoo.models.gan."
AUGMENT = "{_target_:genzoo.models.gan.%s,_partial_:true}"
LEVELS, LIMIT = "genzoo.diffusion.levels.low_discrepancy", "genzoo.diffusion.guidance.dynamic_threshold"
OPTIONS = [
    ["model=vae", "head=bernoulli", "model.particles=4", "model.warmup=100"],
    ["model=vae", "head=logistics", "head.components=3"],
    ["model=vae", "model.mixture=3", "model.latent_dim=2"],
    ["model=vae", "nets=mlp", "sigma=null"],
    ["model=gan", LOSS + "non_saturating"],
    ["model=gan", LOSS + "hinge", "model.spectral=true"],
    ["model=gan", LOSS + "wasserstein", "model.penalty=10", "model.r1=0", "model.r2=0"],
    ["model=gan", f"model.augment=[{AUGMENT % 'translate'},{AUGMENT % 'brighten'}]"],
    ["model=gan", "nets=mlp", "data=toy2d"],
    ["model=gan", "nets=dcgan"],
    ["model=flow", "model.coupling._target_=genzoo.nets.invertible.spline", "model.steps=2"],
    ["model=flow", "model.temperature=0.7", "model.steps=1", "nets=mlp"],
    ["model=ddpm", "model.sigmas._target_=genzoo.diffusion.schedules.cosine", "model.net.dropout=0.3"],
    ["model=flow_matching", "model.pair={_target_:genzoo.diffusion.pairing.optimal_transport,_partial_:true}"],
    ["model=ddpm", "model.target._target_=genzoo.diffusion.targets.v", "model.levels._target_=" + LEVELS],
    ["model=ddpm", "model.weight._target_=genzoo.diffusion.weights.min_snr", "model.limit._target_=" + LIMIT],
    ["model=ddpm", "sampler=ddpm", "sampler.large=true", "steps=5"],
    ["model=ddpm", "sampler.eta=1", "model.sigmas.steps=7", "steps=7"],
    ["model=consistency", "condition=classes", "model.guidance.scale=2", "model.steps=2"],
    ["model=mean_flow", "condition=classes", "model.omega=2"],
]
CASES = [*OPTIONS[::2], *(pytest.param(option, marks=pytest.mark.slow) for option in OPTIONS[1::2])]
FEW = ["trainer=cpu", "metrics=none", "width=8", "budget.images=192", "budget.checks=1", "callbacks.judge.n=4"]


@pytest.mark.parametrize("overrides", CASES, ids=lambda o: " ".join(o).replace("_target_", "").replace("genzoo.", ""))
def test_option_trains_and_samples(overrides: list[str], settings, tmp_path: Path) -> None:
    steps = [] if any(o.startswith("steps") for o in overrides) else ["steps=3"]
    chosen = settings(f"folder={tmp_path}", *overrides, *FEW, *steps)
    data, model = instantiate(chosen["data"], _convert_="all"), runs.build(chosen)
    runs.claim(tmp_path, chosen)
    make_trainer(chosen, tmp_path, model).fit(model, data)
    if isinstance(model, HasAfterFit):
        model.after_fit(data.on_after_batch_transfer(batch, 0) for batch in data.epoch())
    drawn = []
    for m in (model.eval(), copy.deepcopy(model), genzoo.load(tmp_path)):
        torch.manual_seed(1)
        drawn.append(m.sample(4))
    assert torch.equal(drawn[0], drawn[1])
    assert all(x.shape == (4, *model.image_shape) and x.abs().max() <= 1 and x.std() > 0 for x in drawn)

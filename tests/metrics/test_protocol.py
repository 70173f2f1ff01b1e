"""The protocol's hash: the same everywhere, another one for every change of what can change a number, and no other."""

import inspect
import json
from dataclasses import asdict, fields, replace

import pytest
import torch

from genzoo.metrics.evaluate import evaluate
from genzoo.metrics.protocol import Protocol, images_sha256

PROTOCOL = Protocol(
    dataset="digits",
    dataset_sha256="ab" * 32,
    train_sha256="ab" * 32,
    test_sha256="cd" * 32,
    image_shape=(1, 8, 8),
    reference="train",
    n_real=1297,
    n_fake=400,
    sets=1,
    n_likelihood=400,
    features="FD-digits",
    features_sha256="ef" * 32,
    scores={"frechet": {"function": "frechet", "blocks": 10}},
    seed=0,
)
CHANGED = {
    "dataset": "mnist",
    "dataset_sha256": "00" * 32,
    "train_sha256": "00" * 32,
    "test_sha256": "00" * 32,
    "image_shape": (1, 8, 9),
    "reference": "test",
    "n_real": 1296,
    "n_fake": 401,
    "sets": 2,
    "n_likelihood": 100,
    "features": "FID",
    "features_sha256": "00" * 32,
    "scores": {"frechet": {"function": "frechet", "blocks": 20}},
    "seed": 1,
    "quantisation": "floor(x * 255)",
    "revision": 0,
}
# What `evaluate` is given and cannot change a number: `test_evaluate.py` holds the numbers equal.
UNCHANGING = {"batch_size", "cache_dir", "estimates"}


def test_stays_the_same_for_ever() -> None:
    # Written down once (sha256sum of the canonical JSON): published tables carry these ids.
    assert PROTOCOL.protocol_id == "847109599df3"


def test_survives_json() -> None:
    assert Protocol(**json.loads(json.dumps(asdict(PROTOCOL)))).protocol_id == PROTOCOL.protocol_id


@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
def test_every_field_counts(field: str) -> None:
    assert replace(PROTOCOL, **{field: CHANGED[field]}).protocol_id != PROTOCOL.protocol_id


def test_every_argument_of_an_evaluation_is_in_one_list() -> None:
    in_the_protocol = {"splits", "extractor", "dataset", "scores", "reference", "n", "sets", "n_likelihood", "seed"}
    the_model = {"sample", "likelihoods", "reconstructions", "answers"}
    assert set(inspect.signature(evaluate).parameters) == in_the_protocol | the_model | UNCHANGING


def test_images_sha256_sees_content_order_and_shape() -> None:
    x = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)
    others = [x, x.flip(0), x.view(4, 1, 4, 1), x + 1, x.int()]
    assert len({images_sha256(other) for other in others}) == 5
    assert images_sha256(x.flip(0).flip(0)) == images_sha256(x)
    assert images_sha256(x.mT.contiguous().mT) == images_sha256(x)

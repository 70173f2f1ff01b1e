"""The protocol's hash: the same everywhere, another one for every change."""

import json
from dataclasses import asdict, fields, replace

import pytest
import torch

from genzoo.metrics.protocol import Protocol, images_sha256

PROTOCOL = Protocol("digits", "ab" * 32, (1, 8, 8), "train", 1297, 400, "FD-digits", "cd" * 32, 0)


def test_stays_the_same_for_ever() -> None:
    # Written down once (sha256sum of the canonical JSON): published tables carry these ids.
    assert PROTOCOL.protocol_id == "fb9aab5c3506"


def test_survives_json() -> None:
    assert Protocol(**json.loads(json.dumps(asdict(PROTOCOL)))).protocol_id == PROTOCOL.protocol_id


@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
def test_every_field_counts(field: str) -> None:
    value = getattr(PROTOCOL, field)
    changed = (*value, 1) if isinstance(value, tuple) else value + (1 if isinstance(value, int) else "x")
    assert replace(PROTOCOL, **{field: changed}).protocol_id != PROTOCOL.protocol_id


def test_images_sha256_sees_content_order_and_shape() -> None:
    x = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)
    others = [x, x.flip(0), x.view(4, 1, 4, 1), x + 1, x.int()]
    assert len({images_sha256(other) for other in others}) == 5
    assert images_sha256(x.flip(0).flip(0)) == images_sha256(x)
    assert images_sha256(x.mT.contiguous().mT) == images_sha256(x)

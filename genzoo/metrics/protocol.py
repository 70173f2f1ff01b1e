"""The protocol: all that can change a score, hashed, so that only scores under one protocol are ranked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

QUANTISATION = "uint8: (x * 127.5 + 128).clip(0, 255)"
ASKED = 1000  # images that a conditional model is asked for, at most
REVISION = 2  # of the code that measures: raised whenever a change of it changes a number


@dataclass(frozen=True)
class Protocol:
    """How a score was measured. What cannot change it (batch size, device, workers) has no place here.

    dataset_sha256: `images_sha256` of the images that samples are compared with; reference: the split they are,
    n_real of them; train_sha256, test_sha256: of the images that memorisation and likelihood are measured on;
    n_fake: images of one set; sets: disjoint sets that were drawn and scored; n_likelihood: test images whose
    likelihood was asked for, at most; features_sha256: of the extractor's weights; scores: the settings of each
    score; quantisation: how floats in [-1, 1] became uint8; seed: image i of the draw follows from (seed, i).
    What conditional models were asked for follows from these too: the classes, boxes or captions of n_fake test images,
    at most ASKED, drawn by the seed.
    """

    dataset: str
    dataset_sha256: str
    train_sha256: str
    test_sha256: str
    image_shape: tuple[int, ...]
    reference: str
    n_real: int
    n_fake: int
    sets: int
    n_likelihood: int
    features: str
    features_sha256: str
    scores: Mapping[str, Mapping[str, Any]]
    seed: int
    quantisation: str = QUANTISATION
    revision: int = REVISION

    @property
    def protocol_id(self) -> str:
        """12 hexadecimal digits of the sha256 of this protocol's canonical JSON."""
        return short_hash(asdict(self))


def short_hash(content: object) -> str:
    """12 hexadecimal digits of the sha256 of plain Python values as JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def images_sha256(images: Tensor) -> str:
    """sha256 over the shape, dtype and bytes of a tensor, in hex."""
    digest = hashlib.sha256(f"{tuple(images.shape)} {images.dtype}".encode())
    digest.update(images.cpu().contiguous().numpy())
    return digest.hexdigest()

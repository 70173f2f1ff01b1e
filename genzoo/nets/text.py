"""Captions as conditions: bytes of UTF-8, read by a small transformer trained along or by a frozen CLIP."""

import re
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.nets.conditions import Condition, Given

PADDING, BEGIN = 0, 1  # ids that no word has


@lru_cache(100_000)
def word_ids(caption: bytes, words: int, slots: int) -> tuple[int, ...]:
    """`slots` ids below `words`: BEGIN, of each word or sign its CRC-32 (two may share an id), PADDING. What is too
    many is left out."""
    ids = [BEGIN, *(word_id(word, words) for word in words_of(caption))][:slots]
    return (*ids, *[PADDING] * (slots - len(ids)))


def words_of(caption: bytes) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", caption.decode(errors="replace").lower())


def word_id(word: str, words: int) -> int:
    return 2 + zlib.crc32(word.encode()) % (words - 2)


def shared_ids(new: Iterable[bytes], old: Iterable[bytes], words: int) -> list[tuple[str, str]]:
    """The words of new captions that old ones do not have, but a word of the same id, each with that word."""
    before, after = ({word for caption in set(said) for word in words_of(caption)} for said in (old, new))
    known = {word_id(word, words): word for word in before}
    return [(word, known[i]) for word in sorted(after - before) if (i := word_id(word, words)) in known]


def captions(y: Tensor) -> list[bytes]:
    """The captions in y (n, length) uint8 without their padding."""
    return [row.tobytes().rstrip(b"\0") for row in y.cpu().contiguous().numpy()]


class Bytes(Condition):
    """Captions y (n, length) uint8; the null is the empty one."""

    remedy = "take data of captions, as data=scenes data.ask=caption, with condition.length as many bytes as it has"

    def __init__(self, length: int) -> None:
        super().__init__(torch.zeros(length, dtype=torch.uint8))

    def check(self, y: Tensor, n: int) -> None:
        super().check(y, n)
        if y.dtype != torch.uint8:
            raise ValueError(f"captions of {y.dtype}: give the bytes of their UTF-8 as torch.uint8")


class Text(Bytes):
    """Words by the hashing trick, their places, and a transformer (Vaswani et al. 2017, norms first) -> a token a word,
    and as a vector the one before them all, which has read the rest.

    length: bytes of a caption. words: ids there are. slots: tokens, the first of which stands before all words; those
    behind the last word are one learned token. Padding is not attended to within the transformer.
    """

    def __init__(
        self, length: int, dim: int, words: int = 4096, slots: int = 32, depth: int = 2, head_dim: int = 32
    ) -> None:
        super().__init__(length)
        self.words, self.slots, self.tokens, self.vector = words, slots, dim, dim
        self.embedding = nn.Embedding(words, dim)
        self.places = nn.Parameter(0.02 * torch.randn(slots, dim))
        nn.init.normal_(self.embedding.weight, std=0.02)
        heads = next(h for h in range(max(dim // head_dim, 1), 0, -1) if dim % h == 0)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.unused = nn.Parameter(torch.randn(dim))

    @torch.compiler.disable  # strings and their cache
    def ids(self, y: Tensor) -> Tensor:
        """(n, slots) ids of the words of y (n, length)."""
        return torch.tensor([word_ids(caption, self.words, self.slots) for caption in captions(y)], device=y.device)

    def forward(self, y: Tensor) -> Given:
        ids = self.ids(y)
        unused = ids == PADDING  # (n, slots)
        h = self.embedding(ids) + self.places
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=unused)
        h = self.norm(h)
        return Given(h[:, 0], torch.where(unused[..., None], self.unused, h))  # (n, dim), (n, slots, dim)


class ClipText(Bytes):
    """The last hidden states of a frozen CLIP text encoder, as Stable Diffusion attends to them.

    path: a name on the Hugging Face hub, or a folder that transformers' CLIPTextModel and CLIPTokenizer saved, or
        text_encoder/ of a pipeline of diffusers, whose tokenizer/ lies beside it.
    The encoder is in no checkpoint: the path has to be there again when the model is loaded.
    Raises ImportError without transformers, FileNotFoundError where there is no such encoder.
    """

    MOST = 4096  # captions whose tokens are kept

    def __init__(self, path: str, length: int) -> None:
        super().__init__(length)
        self.tokenizer, encoder = clip(path)
        self.frozen = [encoder.eval().requires_grad_(False)]  # a list, so that its weights are not this module's
        self.tokens = encoder.config.hidden_size
        self.kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def encode(self, texts: list[bytes]) -> Tensor:
        """(n, slots, d), slots as many as the encoder takes."""
        encoder = self.frozen[0].to(self.nothing.device)
        strings, most = [text.decode() for text in texts], encoder.config.max_position_embeddings
        ids = self.tokenizer(strings, padding="max_length", max_length=most, truncation=True, return_tensors="pt")
        return encoder(**ids.to(self.nothing.device)).last_hidden_state

    @torch.compiler.disable
    def forward(self, y: Tensor) -> Given:
        asked = captions(y)
        if new := list(dict.fromkeys(text for text in asked if text not in self.kept)):
            if len(self.kept) + len(new) > self.MOST:
                self.kept, new = {}, list(dict.fromkeys(asked))
            self.kept |= zip(new, self.encode(new), strict=True)
        return Given(tokens=torch.stack([self.kept[text].to(y.device) for text in asked]))


def clip(path: str) -> tuple[Any, nn.Module]:
    """Tokenizer and text encoder; only safetensors, so that no pickle of a stranger is opened."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ImportError(f"condition=clip needs transformers ({error}): pip install transformers") from error
    try:
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_of(path))
        return tokenizer, CLIPTextModel.from_pretrained(path, use_safetensors=True)
    except OSError as error:
        raise FileNotFoundError(
            f"There is no CLIP text encoder {path}, neither in a folder of that name nor on the hub: set "
            "condition.path to a folder with its config.json, model.safetensors, vocab.json and merges.txt, "
            "or to text_encoder/ of a pipeline that has the latter two in tokenizer/."
        ) from error


def tokenizer_of(path: str) -> str:
    """Where the tokenizer of a text encoder lies: with it, or as pipelines of diffusers keep it, in tokenizer/ beside
    text_encoder/, or in tokenizer_2/ beside text_encoder_2/."""
    encoder = Path(path)
    beside = encoder.parent / encoder.name.replace("text_encoder", "tokenizer")
    with_it = any((encoder / name).is_file() for name in ("vocab.json", "tokenizer.json"))
    return path if with_it or not beside.is_dir() else str(beside)

"""Depth as a condition: how near each pixel is, as a frozen network of transformers sees it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.maps import Maps, known

AT_ONCE = 16  # images that the network sees together, which it does at some hundred pixels a side


class Depth(Maps):
    """What the network says of the image, scaled to fill [-1, 1] in each image: y (n, 2, H, W).

    path: a name on the Hugging Face hub, or a folder that a depth network of transformers (DPT, MiDaS, Depth Anything)
    and its image processor saved. Of networks of relative depth 1 is near, of those of metres it is far.
    The network is in no checkpoint: the path has to be there again when the model is loaded.
    Raises ImportError without transformers, FileNotFoundError where there is no such network, ValueError for images
    that are neither grey nor RGB, and for one that says no size for its images.
    """

    def __init__(self, path: str, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape, 1)
        if image_shape[0] not in (1, 3):
            raise ValueError(f"condition=depth sees grey or RGB images, and these have {image_shape[0]} channels")
        network, told = depth_network(path)
        self.frozen = [network.eval().requires_grad_(False)]  # a list, so that its weights are not this module's
        self.taken = size_taken(told, *self.size)
        self.mean, self.std = told["image_mean"], told["image_std"]

    @torch.compiler.disable
    @torch.no_grad()
    def of(self, x: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            depth = torch.cat([self.depth(part) for part in x.float().split(AT_ONCE)])
        low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
        return known(torch.where(high > low, 2 * (depth - low) / (high - low) - 1, 0)).to(x)

    def depth(self, x: Tensor) -> Tensor:
        """(n, 1, H, W): what the network says of x (n, C, H, W), by its own processor's sizes, mean and deviation."""
        network = self.frozen[0].to(x.device)
        mean, std = (x.new_tensor(told).view(-1, 1, 1) for told in (self.mean, self.std))
        x = F.interpolate(x.expand(-1, 3, -1, -1), self.taken, mode="bicubic", antialias=True)
        depth = network(pixel_values=(x / 2 + 0.5 - mean) / std).predicted_depth  # (n, h, w)
        return F.interpolate(depth[:, None], self.size, mode="bicubic", align_corners=False)


def size_taken(told: dict[str, Any], height: int, width: int) -> list[int]:
    """Height and width to which an image processor scales images, as transformers' DPTImageProcessor does.

    told: its settings. Raises ValueError for one that names no height and width.
    """
    size = told.get("size")
    size = {"height": size, "width": size} if isinstance(size, int) else size or {}
    if not {"height", "width"} <= size.keys():
        raise ValueError(f"condition.path: its images have size={size}: take a network of DPT, MiDaS or Depth Anything")
    scales = [size["height"] / height, size["width"] / width]
    if told.get("keep_aspect_ratio"):
        scales = [min(scales, key=lambda scale: abs(1 - scale))] * 2
    step = told.get("ensure_multiple_of") or 1
    return [max(round(scale * side / step), 1) * step for scale, side in zip(scales, (height, width), strict=True)]


def depth_network(path: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and what its image processor is set to; only safetensors, and none of a stranger's code."""
    try:
        from transformers import AutoModelForDepthEstimation, ImageProcessingMixin
    except ImportError as error:
        raise ImportError(f"condition=depth needs transformers ({error}): pip install transformers") from error
    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(path)
        network = AutoModelForDepthEstimation.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no depth network {path}, neither in a folder of that name nor on the hub "
            f"({' '.join(str(error).split())[:200]}): set condition.path to a folder with its config.json, "
            "model.safetensors and preprocessor_config.json."
        ) from error
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return network, half | {key: value for key, value in told.items() if value is not None}

"""genzoo: every family of deep generative image model, trained and compared under one protocol."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.runs import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`genzoo.load`, imported on first use: the report reads runs without torch."""
    if name == "load":
        from genzoo.runs import load

        return load
    raise AttributeError(f"module 'genzoo' has no attribute {name!r}")

"""A protocol in words: what was compared with what, and on what two protocols differ."""

from typing import Any

from genzoo.report import units


def in_words(protocol: dict[str, Any]) -> str:
    """The protocol as a sentence, then what pins it down."""
    if not protocol:
        return "Not scored: these runs were asked for samples alone."
    p = {key: _brief(item) for key, item in protocol.items()}
    n_fake, n_real = (units.integer(protocol.get(key)) for key in ("n_fake", "n_real"))
    return (
        f"{n_fake} generated images against {n_real} real ones from the {p.get('reference', 'unknown')} "
        f"split of {p.get('dataset', 'an unnamed data set')}, {p.get('image_shape', 'of unknown shape')}, "
        f"compared in the features “{p.get('features', 'unknown')}”; "
        f"{p.get('quantisation', 'quantisation unknown')}."
    )


def differing(protocol: dict[str, Any], first: dict[str, Any]) -> str:
    """n_fake is 200 instead of 400; ...: over the keys that differ from the first's."""
    keys = [key for key in {**first, **protocol} if protocol.get(key) != first.get(key)]
    return "; ".join(f"{key} is {_brief(protocol.get(key))} instead of {_brief(first.get(key))}" for key in keys)


def _brief(item: object) -> str:
    """A hash by its first 12 digits, a shape as 1 × 8 × 8, all else as it is."""
    if isinstance(item, list):
        return " × ".join(map(str, item))
    text = "unset" if item is None else str(item)
    return text[:12] if len(text) == 64 else text

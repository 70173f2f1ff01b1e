"""The sentences: what was compared, what came out of it, and how to read a table without being misled."""

from collections import Counter
from collections.abc import Iterable, Sequence

from genzoo.report import scores, settings, table, units
from genzoo.report.runs import Run
from genzoo.report.table import Group

NAMED = 5  # families that a title has room for
ROWS = "Each row is one record, with more steps further down; a column begins at the same noise all over."


def each_once(items: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(item) for item in items if item is not None))


def listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def title(groups: list[Group]) -> str:
    """VAE, GAN and DDPM on digits; 10 families on digits."""
    families = each_once(row.family for group in groups for row in group.rows)
    data = each_once(group.protocol.get("dataset") for group in groups)
    named = listed(families) if len(families) <= NAMED else f"{len(families)} families"
    return f"{named} on {listed(data)}" if groups else "No finished run yet"


def summary(groups: list[Group], rest: list[Run]) -> list[str]:
    """What was compared, and what came out of it; then how many runs are not in the tables."""
    sentences = [f"{_counts(groups)}, {_trained(groups)}. {_best(groups[0])}"] if groups else []
    if len(groups) > 1:
        apart = f"They were scored under {len(groups)} protocols and are ranked within each; the sentence above"
        sentences.append(f"{apart} is about the first.")
    if rest:
        sentences.append(f"{units.counted(len(rest), 'run')} without scores{_lost(groups, rest)}: see the end.")
    return sentences


def _counts(groups: list[Group]) -> str:
    """12 runs: 4 settings of 3 seeds each."""
    runs = units.counted(len({run.folder for group in groups for run in group.runs}), "run")
    sizes = {len(row.runs) for group in groups for row in group.rows}
    n = units.counted(len(groups[0].rows), "setting")
    if len(groups) > 1 or sizes == {1}:
        return runs
    return f"{runs}: {n} of {sizes.pop()} seeds each" if len(sizes) == 1 else f"{runs} of {n}"


def _trained(groups: list[Group]) -> str:
    seen = each_once(units.integer(run.metrics["cost"].get("images_seen")) for group in groups for run in group.runs)
    return f"trained on {seen[0]} images each" if len(seen) == 1 else "trained on unequal numbers of images"


def _lost(groups: list[Group], rest: list[Run]) -> str:
    """Which settings of the tables lack seeds: means over the survivors alone may flatter."""
    rows = [(row.name, settings.essence(row.runs[0].config)) for group in groups for row in group.rows]
    of = [next((name for name, config in rows if config == settings.essence(run.config)), None) for run in rest]
    lost = Counter(name for name in of if name)
    words = [f"{name} lacks {units.counted(n, 'seed')}" for name, n in lost.items()]
    return f" ({listed(words)})" if words else ""


def _best(group: Group) -> str:
    """The first row in a sentence, beside the floor; "" when there is no second row to compare it with."""
    ranked = [row for row in group.rows if row.rank]
    if len(ranked) < 2:
        return ""
    name, first, second = group.by, ranked[0], ranked[1]
    at = group.scores.index(name)
    text, floor = (table.score_cells(group, found)[at] for found in (first.scores, group.floor))
    most = "highest" if scores.direction(name) > 0 else "lowest"
    beside = f" (real images against real images: {floor.text})" if name in group.floor else ""
    tie = f", though its interval overlaps that of {second.name}" if _meet(first, second, name) else ""
    return f"{first.name} reached the {most} {name}, {f'{text.text} {text.detail}'.strip()}{beside}{tie}."


def _meet(first: table.Row, second: table.Row, name: str) -> bool:
    return first.scores[name].overlaps(second.scores[name])


def of_scores(group: Group) -> str:
    """How to read the table: the order, which noise an interval is of, and what has no better direction."""
    parts = [f"Ranked by {group.by}." if group.by else "No scores to rank by."]
    parts += [*_of_intervals(group), _of_bits(group), _of_neither(group), _of_budgets(group), _of_again(group)]
    if group.calibration:
        parts.append("In italics, real and spoilt images scored like a generator.")
    return " ".join(filter(None, parts))


def _of_intervals(group: Group) -> list[str]:
    """Training noise over seeds or sampling noise of one run: whichever the table shows."""
    shown = [found for row in group.rows for found in row.scores.values() if found.low < found.high]
    if not shown:
        return ["Each row is one run without an error bar, so close values are not yet an order."]
    said = ["With each score its 95% interval (± half its width where symmetric)."]
    if any(found.runs > 1 for found in shown):
        said.append("Rows of several seeds: the mean over them and Student's interval of it, which is training noise.")
    if any(found.runs == 1 for found in shown):
        said.append("Rows of 1 seed: sampling noise of that run alone; another seed may fall outside.")
    return [*said, "Bold: best, and no other row's interval meets its own."]


def _of_bits(group: Group) -> str:
    kinds = {row.scores[scores.BITS].kind for row in group.rows if scores.BITS in row.scores}
    signs = {"lower bound": "≤ is a bound: the true bits/dim are at most this", "estimate": "≈ is an estimate"}
    said = [words for kind, words in signs.items() if kind in kinds]
    return f"{'; '.join(said)}." if said else ""


def _of_budgets(group: Group) -> str:
    """Which rows did not spend what they were asked to, and what each spent where that is not the same."""
    early = [row.name for row in group.rows if row.ended_early]
    said = f"{listed(early)} {table.EARLY}, before the budget was spent, and cannot be best." if early else ""
    spent = {row.name: _spent(row) for row in group.rows if _spent(row)}
    amounts = [amount for found in spent.values() for _, amount in found]
    kinds = {kind for found in spent.values() for kind, _ in found}
    if len(kinds) < 2 and max(amounts, default=0) <= 1.02 * min(amounts, default=0):
        return said
    each = "; ".join(f"{name} {_range(found)}" for name, found in spent.items())
    return f"{said} Budgets spent are not equal: {each}.".strip()


def _spent(row: table.Row) -> list[tuple[str, float]]:
    """("images", 80000) of every run that says what it spent."""
    found = [run.metrics.get("budget", {}) for run in row.runs]
    return [(str(b.get("kind")), float(b["spent"])) for b in found if isinstance(b.get("spent"), (int, float))]


def _range(spent: Sequence[tuple[str, float]]) -> str:
    """80,000 images, or the least to the greatest over a row's runs."""
    amounts = each_once(f"{amount:,.4g}" if amount < 1e4 else f"{amount:,.0f}" for _, amount in sorted(spent))
    return f"{' to '.join(dict.fromkeys([amounts[0], amounts[-1]]))} {listed(each_once(kind for kind, _ in spent))}"


def _of_again(group: Group) -> str:
    """Of what a ranked row is not its own sampling, and what was sampled in other ways besides."""
    lacking = listed([row.name for row in group.rows if row.asked])
    said = [f"{lacking}: of the most network calls, for want of a record of its own sampling."] if lacking else []
    sampled = listed(each_once(row.training for row in group.again))
    said += [f"Sampled in other ways too: {sampled}; these records stand below, without a rank."] if sampled else []
    return " ".join(said)


def _of_neither(group: Group) -> str:
    names = [name for name in group.scores if not scores.direction(name)]
    if not names:
        return ""
    return f"Without a better direction: {listed(names)}; what real images get, below, is the mark to compare with."


def of_costs(group: Group) -> str:
    """Where the times were taken and what a number is the mean of."""
    devices = each_once(run.metrics["cost"].get("device") for run in group.runs)
    work = any("multiply_adds" in key for run in group.runs for key in run.metrics["cost"])
    said = ["Means over seeds."] if any(len(row.runs) > 1 for row in group.rows) else []
    said += ["Multiply-adds are of one image."] if work else []
    return " ".join([*said, f"Times on {'; '.join(devices)}." if devices else ""]).strip()

"""python -m genzoo.dashboard study=NAME: a study's table and report in one W&B run, and a W&B report over its runs."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from genzoo.command import command, plain
from genzoo.loggers import STRIPS, bundle, run_id, wandb_mode
from genzoo.report.page import write
from genzoo.report.runs import Run, curves, find

JOB = "report"  # job type of the summary run, by which panels of the study's runs leave it out
WORDS = ("protocol_id", "kind", "run", "family", "device", "place")  # columns of table.csv that are never numbers


class Panel(NamedTuple):
    """kind: a panel class of wandb_workspaces.reports.v2; settings: its arguments; width: of W&B's 24 columns."""

    kind: str
    settings: dict[str, Any]
    width: int = 12


class Section(NamedTuple):
    """A heading with panels, over the study's runs or (summary) over its summary run alone."""

    title: str
    panels: list[Panel]
    summary: bool = False


@command("dashboard")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    folder = folder_of(settings["study"], settings["folder"])
    study, out, project = settings["study"] or folder.name, folder / "report", settings["project"]
    write([folder], out)
    found = find([folder])
    entity = log_summary(study, found, out, project=project, entity=settings["entity"], artifact=settings["artifact"])
    plan = sections(found)
    if not entity:
        print(outline(study, project, plan))
        print("Nothing was sent: `wandb login`, then repeat this command.")
        return
    try:
        print(publish(study, project, entity, plan, out / "wandb" / "report"))
    except ImportError:
        print(outline(study, project, plan))
        print("wandb-workspaces is missing: pip install 'genzoo[dashboard]' and repeat this command.")


def folder_of(study: str | None, folder: str | None) -> Path:
    """Raises ValueError when neither a study nor a folder is named."""
    if study is None and folder is None:
        raise ValueError("nothing to show: give study=NAME, or folder=FOLDER with runs below it")
    return Path(folder) if folder is not None else Path("outputs", study)


def log_summary(study: str, found: Sequence[Run], out: Path, project: str, entity: str | None, artifact: bool) -> str:
    """One W&B run with the report of `out` in it, the same one each time; returns its entity, "" when offline.

    It holds table.csv as wandb.Table, index.html as wandb.Html, and with `artifact` the tables as files.
    """
    import wandb

    states = [run.state for run in found]
    with wandb.init(
        project=project,
        entity=entity,
        id=run_id(out),
        resume="allow",
        mode=wandb_mode(),
        dir=out,
        group=study,
        job_type=JOB,
        name=f"{study}: report",
        config={"study": study, "runs": {state: states.count(state) for state in sorted(set(states))}},
    ) as run:
        run.log({"table": table(out / "table.csv"), "report": wandb.Html(str(out / "index.html"), inject=False)})
        if artifact:
            run.log_artifact(bundle(f"report-{run.id}", JOB, sorted(out.glob("table.*"))))
        return "" if run.offline else run.entity


def table(path: Path) -> Any:
    """table.csv as wandb.Table: a column is of numbers where all its filled cells are."""
    import wandb

    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    columns = [column(name, [row[i] for row in rows]) for i, name in enumerate(head)]
    return wandb.Table(columns=head, data=[list(row) for row in zip(*columns, strict=True)])


def column(name: str, cells: Sequence[str]) -> list[str] | list[float | None]:
    """W&B wants one type a column: words, "" where a cell is empty, or numbers, None where it is."""
    if name in WORDS:
        return list(cells)
    try:
        return [float(cell) if cell else None for cell in cells]
    except ValueError:
        return list(cells)


def sections(found: Sequence[Run]) -> list[Section]:
    """What the W&B report shows: scores against images seen by family, final scores, samples over time, the table."""
    during = dict.fromkeys(name for run in found for name in curves(run) if name.startswith("score/"))
    final = dict.fromkeys(name for run in found for name in run.metrics.get("scores", {}))
    return [
        Section("Scores during training, mean and range by family", list(map(against_images, during))),
        Section("Scores at the end, mean and range by family", list(map(bars, final))),
        Section("Samples, with a slider over images seen", [Panel("MediaBrowser", {"media_keys": ["samples"]}, 24)]),
        Section("Between images and out of noise", [Panel("MediaBrowser", {"media_keys": list(STRIPS)}, 24)]),
        Section("Table", [Panel("WeavePanelSummaryTable", {"table_name": "table"}, 24)], summary=True),
        Section("Report", [Panel("MediaBrowser", {"media_keys": ["report"]}, 24)], summary=True),
    ]


def by_family() -> dict[str, str]:
    """The families' runs together, whose job type is the family."""
    return {"groupby": "JobType", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}


def against_images(name: str) -> Panel:
    title = name.removeprefix("score/")
    return Panel("LinePlot", {"x": "images", "y": [name], "title": title, "title_x": "images seen", **by_family()})


def bars(name: str) -> Panel:
    return Panel("BarPlot", {"metrics": [name], "title": name, **by_family()})


def outline(study: str, project: str, plan: Sequence[Section]) -> str:
    """The plan in words."""
    lines = [f"W&B report {study!r} in project {project!r} would hold:"]
    for section in filter(lambda section: section.panels, plan):
        whose = "the summary run" if section.summary else f"runs of group {study!r}"
        lines += [f"  {section.title} ({whose})", *(f"    {words(panel)}" for panel in section.panels)]
    return "\n".join(lines)


def words(panel: Panel) -> str:
    keys = ("y", "metrics", "media_keys", "table_name")
    shown = next(panel.settings[key] for key in keys if key in panel.settings)
    what = shown if isinstance(shown, str) else ", ".join(shown)
    return f"{panel.kind}: {what}" + (f" against {panel.settings['x']}" if "x" in panel.settings else "")


def publish(study: str, project: str, entity: str, plan: Sequence[Section], known: Path) -> str:
    """Save the plan as W&B report and return its address; `known` keeps its id, so that the next time renews it.

    Raises ImportError without wandb-workspaces.
    """
    from wandb_workspaces.reports.v2 import Report

    report = Report(project=project, entity=entity, title=study, width="fluid")
    report.id = known.read_text() if known.is_file() else ""
    report.blocks = list(blocks(study, project, entity, plan))
    report.save()
    known.write_text(report.id)
    return report.url


def blocks(study: str, project: str, entity: str, plan: Sequence[Section]) -> Iterator[Any]:
    """The plan as blocks of wandb_workspaces: a heading and a grid of panels each."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.expr import Metric

    for section in filter(lambda section: section.panels, plan):
        job = Metric("JobType") == JOB if section.summary else Metric("JobType") != JOB
        chosen = wr.Runset(project=project, entity=entity, name=study, filters=[Metric("Group") == study, job])
        made = [
            getattr(wr, kind)(**settings, layout=wr.Layout(x=12 * (i % 2), y=10 * (i // 2), w=width, h=10))
            for i, (kind, settings, width) in enumerate(section.panels)
        ]
        yield from (wr.H2(section.title), wr.PanelGrid(runsets=[chosen], panels=made))


if __name__ == "__main__":
    main()

"""The dashboard of a study: its summary run read back from the offline file, its plan against wandb-workspaces."""

import csv
import json
import runpy
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from genzoo import dashboard
from genzoo.dashboard import JOB, blocks, column, folder_of, log_summary, outline, publish, sections
from genzoo.loggers import run_id
from genzoo.report.page import write
from genzoo.report.runs import find

HERE = Path(__file__).parent
Offline = runpy.run_path(str(HERE / "test_loggers.py"))["Offline"]
write_run = runpy.run_path(str(HERE / "report/conftest.py"))["write_run"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "demo"
    for family in ("vae", "gan"):
        for seed in (0, 1):
            write_run(folder / f"model={family}/seed={seed}", family, 30.0 + seed, seed)
    write_run(folder / "model=flow/seed=0", "flow", None)
    write([folder], folder / "report")
    return folder


@pytest.fixture
def study(reported, tmp_path) -> Path:
    """outputs/demo: two families, two seeds, one run unfinished, with its report."""
    return shutil.copytree(reported, tmp_path / "outputs/demo")


def logged(study: Path, artifact: bool = False) -> object:
    out = study / "report"
    assert log_summary("demo", find([study]), out, project="genzoo", entity=None, artifact=artifact) == ""
    return Offline(out)


def test_one_run_holds_the_table_and_the_page_of_the_report(study):
    found, out = logged(study, artifact=True), study / "report"
    assert (found.run.run_group, found.run.job_type, found.run.run_id) == ("demo", JOB, run_id(out))
    assert found.config["runs"] == {"finished": 4, "unfinished": 1}
    media = next(out.glob("wandb/offline-run-*/files/media"))
    sent = json.loads(next(media.glob("table/table_*.table.json")).read_text())
    with (out / "table.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert sent["columns"] == head
    assert len(sent["data"]) == len(rows)
    for name in ("FD-digits", "protocol_id", "run"):
        i = head.index(name)
        assert [str(row[i]) for row in sent["data"]] == [str(type(a[i])(b[i])) for a, b in zip(sent["data"], rows)]
    assert isinstance(sent["data"][0][head.index("FD-digits")], float)
    assert next(media.glob("html/report_*.html")).read_bytes() == (out / "index.html").read_bytes()
    tables = next(artifact for artifact in found.artifacts if artifact.type == JOB)
    assert {"table.csv", "table.md"} <= {entry.path for entry in tables.manifest.contents}


def test_the_same_command_again_is_the_same_summary_run(study):
    first = logged(study)
    time.sleep(1)  # the names of W&B's folders tell seconds apart
    assert logged(study).run.run_id == first.run.run_id
    assert len(list(study.glob("report/wandb/offline-run-*"))) == 2


def test_a_column_has_one_type():
    assert column("FD", ["1.5", "", "nan"])[:2] == [1.5, None]
    assert column("place", ["1", "2"]) == ["1", "2"]
    assert column("protocol_id", ["12345678e012"]) == ["12345678e012"]
    assert column("likelihood", ["3.5", "none"]) == ["3.5", "none"]


def test_offline_the_command_prints_what_it_would_make(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parent.parent)
    monkeypatch.setattr("sys.argv", ["genzoo.dashboard", "study=demo"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    dashboard.main()
    said = capsys.readouterr().out
    assert "LinePlot: score/FD-digits against images" in said
    assert "MediaBrowser: samples" in said
    assert "wandb login" in said


def test_without_a_name_the_command_says_what_to_give():
    with pytest.raises(ValueError, match="give study=NAME"):
        folder_of(None, None)
    assert folder_of("beta", None) == Path("outputs/beta")
    assert folder_of("beta", "/runs/b") == Path("/runs/b")


def test_without_wandb_workspaces_the_plan_is_printed(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parent.parent)
    monkeypatch.setattr("sys.argv", ["genzoo.dashboard", "study=demo"])
    monkeypatch.setattr(dashboard, "log_summary", lambda *_, **__: "lab")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    dashboard.main()
    said = capsys.readouterr().out
    assert "LinePlot" in said and "genzoo[dashboard]" in said


def test_panels_are_those_of_wandb_workspaces(study):
    """Each block as the W&B app would get it; the ids of projects alone come from a server."""
    wr = pytest.importorskip("wandb_workspaces.reports.v2")
    made = list(blocks("demo", "genzoo", "lab", sections(find([study]))))
    grids = [block for block in made if isinstance(block, wr.PanelGrid)]
    assert made[0] == wr.H2("Scores during training, mean and range by family")
    line = grids[0].panels[0]._to_model().config
    assert (line.x_axis, line.metrics, line.group_by, line.group_area) == (
        "images",
        ["score/FD-digits"],
        "jobType",
        "minmax",
    )
    assert grids[2].panels[0]._to_model().config.media_keys == ["samples"]
    assert grids[0].runsets[0].filters == "Metric(\"Group\") == 'demo' and Metric(\"JobType\") != 'report'"
    assert grids[-1].runsets[0].filters == "Metric(\"Group\") == 'demo' and Metric(\"JobType\") == 'report'"
    assert all(panel._to_model() for grid in grids for panel in grid.panels)


def test_a_report_that_is_known_is_renewed(study, monkeypatch):
    wr = pytest.importorskip("wandb_workspaces.reports.v2")
    saved = []

    def save(report):
        saved.append(report.id)
        report.id = report.id or "VmlldzoxMjM0"

    monkeypatch.setattr(wr.Report, "save", save)
    monkeypatch.setattr(wr.Report, "url", property(lambda report: f"https://wandb.ai/reports/{report.id}"))
    again = partial(publish, "demo", "genzoo", "lab", sections(find([study])), study / "report/known")
    assert [again(), again()] == ["https://wandb.ai/reports/VmlldzoxMjM0"] * 2
    assert saved == ["", "VmlldzoxMjM0"]


def test_the_outline_leaves_out_what_no_run_has(study):
    for curves in study.rglob("curves.csv"):
        curves.unlink()
    assert "LinePlot" not in outline("demo", "genzoo", sections(find([study])))

"""Studies: one command for a grid of runs, that may be killed and repeated."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from genzoo import runs, study
from genzoo.command import conf_folder, folder_name

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/study.yaml"))
ALIKE = {"families_cifar10", "families_fashion_mnist", "flow_couplings", "gan_losses", "latent_stages", "vae_beta"}
STUDY = """\
# @package _global_
question: Does beta matter?
grid:
  model.beta: [1, 2]
  metrics.reference: [train, tests]
defaults:
  - override /model: vae
width: 8
budget: {images: 256, checks: 1}
metrics: {n: 32, n_likelihood: 16}
callbacks: {judge: {n: 8}}
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A folder with a study of four runs, two of which cannot be scored."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine/beta").mkdir(parents=True)
    (folder / "mine/beta/study.yaml").write_text(STUDY)
    return folder


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "genzoo.run", "-m", "--config-dir", "mine", "+study=beta", "trainer=cpu", *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1, text=True)


@pytest.fixture(scope="module")
def first(user: Path) -> tuple[int, str, str]:
    """Killed as soon as one run is finished, then repeated to its end."""
    killed = start(user)
    deadline = time.monotonic() + 120
    while not list(user.glob("outputs/beta/*/seed=0/metrics.json")):
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = start(user)
    out, err = again.communicate(timeout=200)
    return again.returncode, out, err


def cells(user: Path) -> dict[str, Path]:
    return {str(path.parent.parent.name): path.parent for path in user.glob("outputs/beta/*/seed=0/config.yaml")}


@pytest.mark.slow
def test_the_repeated_command_finishes_the_good_cells_and_names_the_bad(user: Path, first) -> None:
    code, out, err = first
    assert code == 2, err
    assert out.count("already finished") == 1
    found = cells(user)
    good = {name for name, folder in found.items() if (folder / "metrics.json").exists()}
    bad = {name for name, folder in found.items() if (folder / "failed.txt").exists()}
    assert good == {f"metrics.reference=train,model.beta={b},trainer=cpu" for b in (1, 2)}
    assert bad == {f"metrics.reference=tests,model.beta={b},trainer=cpu" for b in (1, 2)}
    for name in bad:
        assert f"genzoo: failed: outputs/beta/{name}/seed=0" in err
        assert "metrics.reference=tests" in (found[name] / "failed.txt").read_text()


@pytest.mark.slow
def test_the_plan_names_the_folders_that_the_runs_have(user: Path, first) -> None:
    plan = json.loads((user / "outputs/beta/study.json").read_text())
    assert plan["question"] == "Does beta matter?"
    assert {cell["folder"] for cell in plan["cells"]} == {f"{name}/seed=0" for name in cells(user)}
    assert plan["budget"]["images"] == 256


@pytest.mark.slow
def test_the_study_has_its_report(user: Path, first) -> None:
    page = (user / "outputs/beta/report/index.html").read_text()
    assert "model.beta=2" in page


@pytest.mark.slow
def test_a_run_says_how_to_repeat_it(user: Path, first) -> None:
    metrics = json.loads(next(user.glob("outputs/beta/*/seed=0/metrics.json")).read_text())
    command = metrics["provenance"]["command"]
    assert command.startswith("python -m genzoo.run -m +study=beta") and "+beta=study" not in command


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)


def test_a_folder_at_work_is_refused(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / runs.LOCK], stdin=-1, stdout=-1)
    other.stdout.readline()
    with pytest.raises(ValueError, match=f"another process is at work in {tmp_path}: wait"), runs.held(tmp_path):
        pass
    other.kill()
    other.wait()
    with runs.held(tmp_path):
        pass


# --- What the command line becomes.


def test_a_key_on_the_command_line_replaces_the_grids(user: Path) -> None:
    asked = study.asked(["-m", f"--config-dir={user / 'mine'}", "+study=beta", "model.beta=3", "seed=0,1"])
    assert [cell["folder"] for cell in asked.cells()] == [
        f"metrics.reference={reference},model.beta=3/seed={seed}" for seed in (0, 1) for reference in ("train", "tests")
    ]


GRID = """\
# @package _global_
grid:
  model.net.attention: [[4], [4, 8]]
  budget.minutes: [null, 2]
  seed: [0]
defaults:
  - override /model: ddpm
budget: {images: 256}
"""


def test_cells_are_the_runs_that_hydra_starts(tmp_path: Path) -> None:
    """Of values of every grammar, in folders of the names that Hydra gives them."""
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid/study.yaml").write_text(GRID)
    typed = ["++seed=range(0,2)", "-m", f"--config-dir={tmp_path}", "on_nan=skip", "~callbacks.tuned", "from=~/a=b"]
    asked = study.asked([*typed, "+study=grid", "++model.net.attention=[8],[16]", "budget.images=1_000"])
    cells = asked.cells()
    found = [sorted(o for o in cell["overrides"] if o.startswith(("++", "budget.minutes"))) for cell in cells]
    assert sorted(found) == [
        [f"++model.net.attention=[{width}]", f"++seed={seed}", f"budget.minutes={minutes}"]
        for width, seed, minutes in itertools.product((16, 8), (0, 1), (2, "null"))
    ]
    assert asked.budget() == {"images": 1000, "minutes": None}
    own = [a for a in asked.arguments if a.startswith(("hydra.", "+grid", "study="))]
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        for cell in cells[:: len(cells) - 1]:
            cfg = compose("config", overrides=[*cell["overrides"], *own], return_hydra_config=True)
            assert cell["folder"] == f"{folder_name(cfg.hydra.job.override_dirname)}/seed={cfg.seed}"
            assert "~callbacks.tuned" in cell["folder"] and "on_nan" not in cell["folder"]


def test_a_glob_is_the_files_of_conf() -> None:
    asked = study.asked(["-m", "+study=demo", "model=glob(ddpm*)"])
    models = sorted(path.stem for path in (ROOT / "conf/model").glob("ddpm*.yaml"))
    assert [cell["overrides"] for cell in asked.cells()] == [[f"model={model}"] for model in models]


def test_a_key_that_is_added_replaces_the_grids_too(tmp_path: Path) -> None:
    (tmp_path / "critics").mkdir()
    grid = "{+adversary@model.adversary: [patch], +data.train: [10, 20]}"
    (tmp_path / "critics/study.yaml").write_text(f"# @package _global_\ngrid: {grid}")
    typed = ["++adversary@model.adversary=patch", "+data.train=5"]
    asked = study.asked(["-m", f"--config-dir={tmp_path}", "+study=critics", *typed])
    assert [cell["overrides"] for cell in asked.cells()] == [typed]
    assert len(study.asked(["-m", f"--config-dir={tmp_path}", "+study=critics"]).cells()) == 2


def test_a_sweep_without_a_study_is_left_alone() -> None:
    assert study.asked(["-m", "model=vae,gan"]) is None
    assert study.as_typed(["model=vae", "study=x"]) == ["model=vae", "study=x"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "+study=nothing"], "No study 'nothing': there are demo"),
        (["+study=demo"], "is a sweep: add -m"),
        (["-m", "+study=demo", "model.betas=[1"], "'model.betas=[1' cannot be read"),
        (["-m", "+study=demo", "logger.wandb.api_key=abc"], "logger.wandb.api_key=***: a secret among the overrides"),
        (["-m", "+study=demo", "--config-dir"], "expected one argument; --help says what there is"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], sentence: str) -> None:
    with pytest.raises((OSError, ValueError), match=re.escape(sentence)):
        study.asked(arguments)


def test_a_study_without_a_grid_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/study.yaml").write_text("question: none")
    with pytest.raises(ValueError, match="has no grid"):
        study.asked(["-m", "--config-dir", str(tmp_path), "+study=empty"])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in SHIPPED])
def test_shipped_studies_compose(name: str, settings) -> None:
    """Cells make configurations of their own, all with the study's budget."""
    asked = study.asked(["-m", f"+study={name}"])
    found, cells = [], asked.cells()
    unseen = ["model.generator.image_shape=[3,4,4]"] if "first_stage" in asked.settings else []  # until it is trained
    for cell in cells[:: max(1, len(cells) // 4)]:
        composed = settings(
            *cell["overrides"], *unseen, f"+{name}=study", f"hydra.searchpath=[file://{ROOT / 'experiments'}]"
        )
        found.append(composed)
        assert composed["budget"] | asked.settings["budget"] == composed["budget"]
    assert len({json.dumps([f["seed"], f["model"], f["data"], f["nets"]], sort_keys=True) for f in found}) == len(found)
    assert len({folder_name(cell["folder"]) for cell in cells}) == len(cells)
    assert asked.settings["question"].endswith("?")
    assert yaml.safe_load((ROOT / "experiments" / name / "study.yaml").read_text())["grid"]


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("families_")])
def test_families_are_of_one_size(name: str, settings) -> None:
    asked = study.asked(["-m", f"+study={name}", "seed=0"])
    path = f"hydra.searchpath=[file://{ROOT / 'experiments'}]"
    models = [runs.build(settings(*cell["overrides"], f"+{name}=study", path)) for cell in asked.cells()]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert len(sizes) == 4
    assert max(sizes) <= 1.1 * min(sizes), sizes

"""W&B: what a run would send, recorded instead of sent."""

from genzoo.loggers import WandbCurves


class Recorder:
    """A W&B run that remembers its calls."""

    def __init__(self):
        self.axes, self.logged, self.config = [], [], {}

    def define_metric(self, *names, **axis):
        self.axes.append((names, axis))

    def log(self, values):
        self.logged.append(values)


def test_images_seen_are_the_axis_of_everything(tmp_path):
    run = Recorder()
    logger = WandbCurves(save_dir=str(tmp_path), experiment=run)
    run.config = type("Config", (dict,), {"update": lambda self, values, **_: dict.update(self, values)})()
    logger.log_hyperparams({"seed": 3, "model": {"width": 8}})
    logger.log_metrics({"train/loss": 1.5}, step=640)
    assert run.axes == [(("images",), {}), (("*",), {"step_metric": "images"})]
    assert run.logged == [{"train/loss": 1.5, "images": 640}]
    assert run.config["seed"] == 3

"""The config: what it refuses, what it keeps, and that the flag files are the paper's."""

import dataclasses
import json

import pytest

from fir_tf import __version__
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.options import ExportOptions, find_run
from fir_tf.run import open_run


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": -1}, "`alpha` must be >= 0. Received: -1"),
        ({"alpha": 0, "beta": 0}, "nothing would be trained: .*Received: alpha=0, beta=0"),
        ({"alpha": 0, "losses": "OC"}, "nothing would be trained"),
        ({"beta": 0, "losses": "IS"}, "nothing would be trained"),
        ({"losses": "OC+XS"}, "`losses` must be a sum of .*Received: 'OC.XS'"),
        ({"losses": "OC+OC"}, "each at most once"),
        ({"losses": ""}, "`losses` must be a sum"),
        ({"backbone": "vgg"}, "`backbone` must be one of resnet50, .*Received: 'vgg'"),
        (
            {"batch_size": 30},
            "multiple of `images_per_item` .4., at least twice it. Received: 30 of 30",
        ),
        ({"batch_size": 4}, "at least twice it"),
        ({"images_per_item": 1}, "`images_per_item` must be at least 2. Received: 1"),
        ({"image_size": 8}, "`image_size` must be between 32 and 4096 pixels. Received: 8"),
        ({"decay_epochs": "0,100"}, "`decay_epochs` must be epochs >= 1"),
        ({"decay_epochs": "soon"}, "`decay_epochs` must be epochs >= 1"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1. Received: 1.0"),
        ({"run": " "}, "`run` must be a folder's path"),
        ({"epochs": 0}, "`epochs` must be >= 1. Received: 0"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(FirError, match=message):
        Config(**values)


def test_config_survives_the_file(tmp_path):
    config = Config(losses="OC+OS", decay_epochs="", rand_augment=True, seed=7)
    config.save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == config


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FirError, match="is not the folder of a run: config.json is missing"):
        Config.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FirError, match="must be JSON"):
        Config.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"future": 1}')
    with pytest.raises(FirError, match="does not know: future"):
        Config.load(tmp_path / "config.json")


def test_settings_of_another_state_of_the_same_version_are_to_be_removed(tmp_path):
    (tmp_path / "config.json").write_text('{"future": 1, "alpha": 2.0, "bygone": ""}')
    (tmp_path / "versions.json").write_text(json.dumps({"fir_tf": __version__}))
    with pytest.raises(FirError, match="development state") as raised:
        Config.load(tmp_path / "config.json")
    assert "does not know: bygone, future. Another development state of" in str(raised.value)
    assert "remove bygone, future there" in str(raised.value)


def test_run_folder_of_another_config_is_refused(tmp_path):
    config = Config(run=str(tmp_path / "run"))
    open_run(config)
    open_run(dataclasses.replace(config, log_every=3))
    with pytest.raises(FirError, match=r"(?s)another config:.*--beta: now 0.5, there 0.1"):
        open_run(dataclasses.replace(config, beta=0.5))
    with pytest.raises(FirError, match="--resume is off"):
        open_run(dataclasses.replace(config, resume=False))


def test_run_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(FirError, match="holds other files"):
        open_run(Config(run=str(tmp_path)))


def test_the_newest_run_is_meant(tmp_path):
    import os

    for number, name in enumerate(("b", "a")):
        Config(run=name).save(tmp_path / name / "config.json")
        os.utime(tmp_path / name / "config.json", (number, number))
    assert find_run("", tmp_path).name == "a"
    with pytest.raises(FirError, match="no run was given"):
        find_run("", tmp_path / "none")


def test_export_options_are_checked():
    with pytest.raises(FirError, match="`top` must be >= 1. Received: 0"):
        ExportOptions(top=0)

"""``prosocial calibrate`` on tiny models that ParlAI has trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.calibrate import calibrate
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.calibrate import calibrate_checkpoint
from parlai_prosocial.evaluation.statistics.calibration import expected_calibration_error
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.zoo.resolve import open_classifier

ROWS = [
    {
        "context": ["I feel tired.", "You could rest.", f"No {i}!"],
        "response": "Hello.",
        "safety_label": "__casual__" if i % 3 else "__needs_caution__",
        "split": split,
    }
    for split in ("train", "valid", "test")
    for i in range(24)
]


@pytest.fixture(scope="module")
def trained(tiny_encoder, tmp_path_factory):
    """``trained(name, **settings)``: the file of a classifier of own data; one training a name."""
    from parlai.scripts.train_model import TrainModel

    folder = tmp_path_factory.mktemp("calibrate")
    data = folder / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(folder / "data"))

        def run(name, **settings):
            path = folder / name / "model"
            if not path.exists():
                TrainModel.main(
                    model="prosocial/classifier",
                    task="prosocial:BinarySafety",
                    prosocial_data=str(data),
                    backbone=str(tiny_encoder),
                    model_file=str(path),
                    max_train_steps=5,
                    batchsize=8,
                    learningrate=0.01,
                    lr_scheduler="none",
                    validation_max_exs=4,
                    short_final_eval=True,
                    **settings,
                )
            return str(path)

        yield run


def test_the_task_and_its_flags_are_those_of_training(trained):
    """--prosocial-data among them: the corpus itself could not be had here."""
    path = trained("plain")
    done = CliRunner().invoke(calibrate, ["-mf", path], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    temperature = json.loads(Path(path).read_text())["temperature"]
    assert f"temperature {temperature:.3f}, fitted on 24 examples" in done.output

    classifier = open_classifier(path)
    valid = [row for row in ROWS if row["split"] == "valid"]
    contexts = ["\n".join(row["context"][:-1]) for row in valid]
    replies = [row["context"][-1] for row in valid]
    labels = np.array([int(row["safety_label"] != "__casual__") for row in valid])
    probabilities = classifier.probabilities(contexts, replies).numpy()
    [error] = expected_calibration_error(probabilities, labels)
    result = calibrate_checkpoint(path)
    assert result.error_after == pytest.approx(error, abs=1e-5)
    assert result.temperature == pytest.approx(temperature), "calibrating again changes nothing"


def test_the_history_is_that_of_training(trained, monkeypatch):
    """A classifier of the last line alone is calibrated on the last line alone."""
    path = trained("last line", split_lines=True, history_size=1)
    seen = []
    original = SafetyClassifier.logits

    def logits(self, contexts, replies):
        seen.extend(contexts)
        return original(self, contexts, replies)

    monkeypatch.setattr(SafetyClassifier, "logits", logits)
    calibrate_checkpoint(path)
    assert seen == [""] * 24


def test_mistakes_are_named(trained, tmp_path):
    path = trained("plain")
    with pytest.raises(UserError, match="nothing: no such model file or folder"):
        calibrate_checkpoint(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"label '__casual__' of the task is not among its classes"):
        calibrate_checkpoint(path, "prosocial:Safety")
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in ROWS[24:29]))
    with pytest.raises(UserError, match="valid split has 5 examples, too few"):
        calibrate_checkpoint(path, None, ["--prosocial-data", str(few)])

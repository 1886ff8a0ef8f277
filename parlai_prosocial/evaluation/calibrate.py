"""Temperature scaling of a trained classifier: its probabilities come to mean what they say.

Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.errors import UserError

FEWEST_EXAMPLES = 20
"""Below this, a fitted temperature is noise."""


@dataclass
class Calibration:
    """What was found on the examples; printed, it is what ``prosocial calibrate`` says.

    Attributes:
        model_file: the checkpoint.
        temperature: now stored in the checkpoint.
        examples: how many it was fitted on.
        error_before: expected calibration error without a temperature.
        error_after: the same with it, on the same examples, and so a little too good.
    """

    model_file: str
    temperature: float
    examples: int
    error_before: float
    error_after: float

    def __str__(self) -> str:
        return (
            f"{self.model_file}: temperature {self.temperature:.3f}, fitted on {self.examples} "
            f"examples; expected calibration error {self.error_before:.3f} -> "
            f"{self.error_after:.3f} on the same"
        )


def calibrate_checkpoint(
    model_file: str, task: str | None = None, parlai_flags: Sequence[str] = ()
) -> Calibration:
    """Fit a checkpoint's temperature on the valid split of a task, and store it.

    Args:
        model_file: ParlAI's ``-mf``.
        task: ParlAI's ``-t``; the one it was trained on where None.
        parlai_flags: more flags of ``parlai eval_model``. What is not given is as in training,
            ``--diasafety-fold`` for instance.

    Raises:
        UserError: no such checkpoint, too few examples, or a label that is none of its classes.
    """
    import torch

    from parlai_prosocial.evaluation.statistics.calibration import (
        expected_calibration_error,
        fit_temperature,
    )
    from parlai_prosocial.models.classifier import set_temperature
    from parlai_prosocial.models.precision import best_device, bf16_is_faster
    from parlai_prosocial.zoo.resolve import open_classifier

    classifier = open_classifier(model_file, "-mf")
    opt, (contexts, replies, names) = _examples(model_file, task, parlai_flags)
    if unknown := set(names) - set(classifier.labels):
        raise UserError(
            f"{model_file}: label {min(unknown)!r} of the task is not among its classes "
            f"{' '.join(classifier.labels)}; give another task by -t"
        )
    if len(names) < FEWEST_EXAMPLES:
        raise UserError(
            f"{model_file}: the task's valid split has {len(names)} examples, too few to "
            f"calibrate on; give a task with {FEWEST_EXAMPLES} or more by -t"
        )
    labels = [classifier.labels.index(name) for name in names]
    device = best_device()
    # As judges compute that were trained so; the rest of fp32's digits are not worth the time.
    bf16 = opt.get("precision", "fp32") != "fp32" and bf16_is_faster(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = classifier.to(device).logits(contexts, replies)
    temperature = fit_temperature(logits, labels)
    set_temperature(model_file, temperature)
    before, after = (
        expected_calibration_error((logits / t).softmax(1).numpy(), labels).item()
        for t in (1.0, temperature)
    )
    return Calibration(model_file, temperature, len(names), before, after)


def _examples(
    model_file: str, task: str | None, parlai_flags: Sequence[str]
) -> tuple[Any, tuple[list[str], list[str], list[str]]]:
    """The options of training, and contexts, last lines and labels of the valid split with the
    history that training had."""
    from parlai.core.opt import Opt
    from parlai.core.params import ParlaiParser
    from parlai.core.teachers import create_task_agent_from_taskname

    from parlai_prosocial.agents.dictionary import DialogueHistory
    from parlai_prosocial.models.classifier_input import split_last_line

    opt = Opt.load(f"{model_file}.opt")
    parser = ParlaiParser(True, True)
    # Not to be changed here: the model is the file's.
    given = parser.parse_args(["-t", task or opt["task"], "-mf", model_file, *parlai_flags])
    opt = Opt({**given, **opt, **given["override"], "datatype": "valid", "batchsize": 1})
    contexts, replies, labels = [], [], []
    for teacher in create_task_agent_from_taskname(opt):
        history = DialogueHistory(opt, size=opt["history_size"])
        while not teacher.epoch_done():
            message = teacher.act()
            history.update_history(message)
            if message.get("eval_labels"):
                context, reply = split_last_line(history.get_history_str() or "")
                contexts.append(context)
                replies.append(reply)
                labels.append(message["eval_labels"][0])
            if message["episode_done"]:
                history.reset()
    return opt, (contexts, replies, labels)

"""``prosocial calibrate``: make a trained classifier's probabilities mean what they say."""

import click

from parlai_prosocial.evaluation.calibrate import calibrate_checkpoint


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-mf", "--model-file", required=True, help="A trained -m prosocial/classifier.")
@click.option("-t", "--task", default=None, help="Task; default: the one it was trained on.")
@click.argument("parlai_flags", nargs=-1, type=click.UNPROCESSED)
def calibrate(model_file: str, task: str | None, parlai_flags: tuple[str, ...]) -> None:
    """Fit a trained classifier's temperature on the valid split, and store it.

    No prediction changes, only how sure it is of them. More flags of parlai eval_model may
    follow; what is not given is as in training.

    \b
    Examples:
      prosocial calibrate -mf runs/judge/model
      prosocial calibrate -mf runs/judge/model -t diasafety:Safety --batchsize 32
    """
    click.echo(calibrate_checkpoint(model_file, task, parlai_flags))

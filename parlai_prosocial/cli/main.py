"""``prosocial``: the commands that the stock ``parlai`` command does not have."""

import signal
import sys
import warnings
from importlib import import_module

import click

import parlai_prosocial
from parlai_prosocial.errors import (
    UserError,
    exit_status,
    of_full_disk,
    show_user_errors_as_one_line,
)
from parlai_prosocial.util.closest import did_you_mean
from parlai_prosocial.util.stopping import Signals, Stopped

# Each command lives in the module of its name. Their help stands here so that `prosocial --help`
# need not import torch, transformers and ParlAI.
GROUPS = {
    "Installation": {
        "setup": "Install ParlAI and the model packages (without their own dependencies).",
        "doctor": "Say whether all is there, and every known clash with its remedy.",
    },
    "Data": {
        "data": "Check a data file of your own; write data for other trainers.",
        "mine": "Sample replies of a model, judge them, and keep the unfit ones as negatives.",
        "annotate": "Write safety labels and rules of thumb for the turns of any ParlAI task.",
    },
    "Training": {
        "recipes": "List the recipes.",
        "train": "Train a recipe: step 1, then step 2 from its result.",
        "improve": "Let a model learn from its own judged replies, in rounds.",
        "compare": "Train a recipe with and without contrast, and compare both with the base.",
        "ablate": "Train and measure the arms of a recipe under one token budget.",
        "calibrate": "Make a safety classifier's probabilities mean what they say.",
        "seal": "Record the hashes of a checkpoint that an earlier version wrote without.",
    },
    "Models": {
        "zoo": "List, verify, build and add the models of the zoo.",
        "chat": "Talk to one model or two on a local page; flag, edit and export replies.",
        "export": "Write a model for Hugging Face or llama.cpp, with its card.",
    },
    "Measuring": {
        "suites": "List the suites of contexts.",
        "judges": "List the judges of replies.",
        "evaluate": "Let models reply to suites of contexts, judge the replies, compare models.",
        "audit": "Audit models for unsafe and preachy replies: tables, a report, release gates.",
        "report": "Write one HTML file about a run of evaluate or audit.",
        "labels": "Draw replies to label, by hand or by a model, and merge two labellings.",
        "safety-bench": "Run ParlAI's Safety Bench over any model.",
    },
}
COMMANDS = {name: about for group in GROUPS.values() for name, about in group.items()}


class LazyGroup(click.Group):
    """A click group that imports a command's module when that command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(f"No such command '{cmd_name}'{did_you_mean(cmd_name, COMMANDS)}")
        module = cmd_name.replace("-", "_")
        return getattr(import_module(f"parlai_prosocial.cli.{module}"), module)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_spacing=3)


@click.group(cls=LazyGroup)
@click.version_option(parlai_prosocial.__version__, prog_name="prosocial")
def cli() -> None:
    """Socially aware contrastive learning for safer dialogue, as a ParlAI plugin.

    \b
    Examples:
      prosocial doctor
      prosocial zoo list
      prosocial chat --model zoo:prosocial/smollm2_135m_prosocial
      prosocial audit --model zoo:prosocial/smollm2_135m_prosocial --limit 20 --open
      prosocial train --recipe demo

    Everything else is the stock parlai command, with -m prosocial and -t mic, prosocial,
    diasafety or self_dialogue.
    """


GO_ON = ("train", "mine", "annotate", "evaluate", "audit", "compare", "ablate", "improve")
"""Commands that go on where they were when they are given again."""


def main() -> None:
    """Run the command line.

    A :class:`UserError` is shown as one line; where the request itself is at fault, the exit status
    is 2. SIGTERM and Ctrl-C end it with the word "stopped" and the status that shells give, 143 or
    130; a second one ends it at once.
    """
    show_user_errors_as_one_line()
    # From ParlAI's own import, which needs setuptools<81 for just this reason; nothing to fix.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

    def at_once(number: int) -> None:
        raise Stopped(number)

    try:
        with Signals(at_once):
            sys.exit(cli(standalone_mode=False))
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else of_full_disk(error)
        if told is None:
            raise
        click.echo(f"error: {told}", err=True)
        sys.exit(exit_status(told))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:  # click makes the one of the other
        cause = error if isinstance(error, Stopped) else error.__context__
        stopped = cause if isinstance(cause, Stopped) else Stopped(signal.SIGINT)
        if not stopped.told:
            goes_on = "; the same command goes on" if sys.argv[1:2] and sys.argv[1] in GO_ON else ""
            click.echo(f"stopped{goes_on}", err=True)
        sys.exit(stopped.status)

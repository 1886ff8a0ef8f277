"""The run's state travels in the agent's, into its file and out of it: see ``training.py``."""

import functools
from typing import Any

STATE, STATE_ATTRIBUTE = "run", "run_to_save"
"""The key of the run's own state beside the optimiser's, and where an agent finds it."""


def mend_agents() -> None:
    """Mend ``parlai.core.torch_agent.TorchAgent``, once."""
    from parlai.core.torch_agent import TorchAgent

    state_dict, build_lr_scheduler = TorchAgent.state_dict, TorchAgent.build_lr_scheduler

    @functools.wraps(state_dict)
    def with_run(self: Any) -> dict[str, Any]:
        states = state_dict(self)
        if (run := vars(self).get(STATE_ATTRIBUTE)) is not None:
            states[STATE] = run
        return states

    # ParlAI gives this method what it has read from the model's file, and says whether the model
    # only begins from it (--init-model) or goes on.
    @functools.wraps(build_lr_scheduler)
    def take_run(self: Any, states: Any = None, hard_reset: bool = False) -> None:
        self.resumed_run = (states or {}).get(STATE) if not hard_reset else None
        self.resumed_optimizer = bool(states) and not hard_reset
        rates = [group["lr"] for group in self.optimizer.param_groups]
        build_lr_scheduler(self, states, hard_reset)
        if self.resumed_optimizer:
            # A schedule sets the initial rate when it is made, for one step, and without a
            # schedule the count of updates begins anew.
            self._number_training_updates = states["number_training_updates"]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    TorchAgent.state_dict = with_run
    TorchAgent.build_lr_scheduler = take_run

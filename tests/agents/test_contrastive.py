"""Fitting replies that grow less likely in training are told of, once."""


def test_drift_of_the_fitting_replies_is_told_once(make_agent, monkeypatch):
    from parlai.utils import logging

    told = []
    monkeypatch.setattr(logging, "warning", told.append)
    agent = make_agent()
    for step in range(60):
        agent._watch_drift(-1.0 - 0.01 * step)
    assert len(told) == 1
    assert "mean log p of the fitting replies fell from -1.095 to" in told[0]


def test_drift_is_told_in_a_run_of_16_steps(make_agent, monkeypatch):
    from parlai.utils import logging

    told = []
    monkeypatch.setattr(logging, "warning", told.append)
    agent = make_agent()
    agent.opt["max_train_steps"] = 16
    for step in range(16):
        agent._watch_drift(-1.0 - 0.01 * step)
    assert len(told) == 1
    # Batches that differ are none.
    agent = make_agent()
    agent.opt["max_train_steps"] = 16
    for step in range(16):
        agent._watch_drift(-1.0 - 0.3 * (step % 3) - 0.001 * step)
    assert len(told) == 1


def test_no_drift_no_warning(make_agent, monkeypatch):
    from parlai.utils import logging

    told = []
    monkeypatch.setattr(logging, "warning", told.append)
    agent = make_agent()
    for step in range(60):
        agent._watch_drift(-1.0 + 0.01 * step)
    assert told == []

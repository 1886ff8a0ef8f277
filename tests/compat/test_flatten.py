"""A flattened episode is read with the speakers that it had as an episode."""

import pytest
from parlai.core.message import Message
from parlai.core.opt import Opt
from parlai.mutators.flatten import FlattenMutator

from parlai_prosocial.agents.dictionary import DialogueHistory
from parlai_prosocial.compat import patches
from parlai_prosocial.models.prompt import split_context

EPISODES = [
    [("Hi!", "Hello."), ("", "Are you there?"), ("Yes.", "Good.")],
    [("Hi!", ""), ("Are you there?", "Yes.")],
    [("your persona: I sail.\nHi!", "Hello.\nHow are you?"), ("Fine.", "Good.")],
    [("Hi!", "rule of thumb: Be polite.\nHello.\nAgain."), ("Hello.", "Yes.")],
    [("", "Hello."), ("Hi!", "Yes.")],
    [("Hi!\n\nI am new.", "Hello."), (" ", "Yes.")],
]


@pytest.mark.parametrize("episode", EPISODES)
def test_nobody_swaps_roles(episode):
    patches.apply()
    history, expected = DialogueHistory(Opt()), []
    for text, reply in episode:
        history.update_history({"text": text})
        expected.append(split_context(history.get_history_str()))
        history.add_reply(reply)
    messages = [
        Message(text=text, labels=[reply], episode_done=i == len(episode) - 1)
        for i, (text, reply) in enumerate(episode)
    ]
    found = []
    for message in FlattenMutator(Opt())(messages):
        alone = DialogueHistory(Opt())
        alone.update_history(message)
        found.append(split_context(alone.get_history_str()))
        assert message["episode_done"]
    assert found == expected

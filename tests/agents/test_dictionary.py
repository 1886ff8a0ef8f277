"""The tokenizer as ParlAI's dictionary, and the history that keeps text only."""

from parlai.core.opt import Opt
from transformers import AutoTokenizer

from parlai_prosocial.agents.dictionary import DialogueHistory, TokenizerDictionary
from parlai_prosocial.data.example import packed_text
from parlai_prosocial.models.prompt import split_context


def test_dictionary_reads_and_writes_with_the_tokenizer(tiny_backbones):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["llama"])
    dictionary = TokenizerDictionary(Opt(), tokenizer=tokenizer, pad_id=0)
    ids = dictionary.txt2vec("You could rest.")
    assert ids == tokenizer("You could rest.")["input_ids"]
    assert dictionary.vec2txt([*ids, tokenizer.eos_token_id]) == "You could rest."
    assert dictionary[dictionary.null_token] == 0
    assert dictionary[dictionary.end_token] == tokenizer.eos_token_id
    assert dictionary[0] == "<|endoftext|>"
    assert len(dictionary) == len(tokenizer)
    assert dictionary.is_prebuilt()


def test_a_reply_is_one_line_of_history_without_its_rule_of_thumb():
    history = DialogueHistory(Opt())
    history.update_history({"text": "Is it fine to take what is not mine?"})
    history.add_reply("rule of thumb: do not steal.\nIt is not kind\nto steal.")
    assert history.get_history_str() == (
        "Is it fine to take what is not mine?\nIt is not kind to steal."
    )


def test_an_empty_turn_is_a_blank_line_and_nothing_else_is():
    history = DialogueHistory(Opt())
    history.update_history({"text": "\nyour persona: I sail.\n\nHi!\n"})
    history.add_reply("")
    history.update_history({"text": "Are you there? \n"})
    assert history.get_history_str() == "your persona: I sail.\nHi!\n\nAre you there?"


def test_nobody_swaps_roles_over_a_blank_line_of_a_message():
    history = DialogueHistory(Opt())
    history.update_history({"text": "Hi!\n\nHello.\n \nI have a boat.\n\n\nDo you sail?"})
    turns, _ = split_context(history.get_history_str())
    assert turns == ["Hi!", "Hello.", "I have a boat.", "Do you sail?"]


def test_a_packed_turn_without_a_word_stays_a_turn():
    turns = ["Hi!", "", "Are you there?"]
    history = DialogueHistory(Opt())
    history.update_history({"text": packed_text(turns)})
    assert split_context(history.get_history_str())[0] == turns
    history.reset()
    history.update_history({"text": "__SILENCE__"})  # of a task of ParlAI's, to be answered
    assert history.get_history_str() == "__SILENCE__"

"""Every flag of ParlAI's generator agent is kept or refused by name."""

import pytest
import torch
from parlai.core.params import ParlaiParser
from parlai.core.torch_generator_agent import TorchGeneratorAgent

from parlai_prosocial.agents.parlai_flags import REFUSED
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.blocking import ReplyNgramBlocking

KEPT = {
    # decoding
    "beam_size": "beams of --inference beam",
    "beam_min_length": "shortest reply",
    "beam_block_ngram": "within the reply",
    "beam_length_penalty": "of beams",
    "inference": "greedy, beam, topk and nucleus; the others are refused",
    "topk": "of topk",
    "topp": "of nucleus",
    "skip_generation": "ParlAI's own",
    "temperature": "means the loss's here, see --help",
    # training
    "optimizer": "ParlAI's own",
    "learningrate": "ParlAI's own",
    "gradient_clip": "ParlAI's own",
    "adam_eps": "ParlAI's own",
    "adafactor_eps": "ParlAI's own",
    "momentum": "ParlAI's own",
    "nesterov": "ParlAI's own",
    "nus": "ParlAI's own",
    "betas": "ParlAI's own",
    "weight_decay": "ParlAI's own",
    "lr_scheduler": "ParlAI's own",
    "lr_scheduler_patience": "ParlAI's own",
    "lr_scheduler_decay": "ParlAI's own",
    "invsqrt_lr_decay_gamma": "ParlAI's own",
    "warmup_updates": "ParlAI's own",
    "warmup_rate": "ParlAI's own",
    "update_freq": "ParlAI's own",
    "fp16": "bf16 instead, and said",
    "gpu": "ParlAI's own",
    "no_cuda": "ParlAI's own",
    # messages
    "interactive_mode": "ParlAI's own",
    "rank_candidates": "by the likelihood score",
    "text_truncate": "whole turns",
    "label_truncate": "end-of-turn kept",
    "history_size": "of ParlAI's history",
    "person_tokens": "of ParlAI's history",
    "split_lines": "of ParlAI's history",
    "use_reply": "of ParlAI's history",
    "add_p1_after_newln": "of ParlAI's history",
}
OTHER_VALUES = {
    "beam_block_list_filename": "list.txt",
    "embedding_type": "glove",
    "embedding_projection": "fasttext",
    "fp16_impl": "mem_efficient",
    "delimiter": " | ",
    "history_add_global_end_token": "end",
    "special_tok_lst": "A,B",
}


def parlai_flags():
    parser = ParlaiParser(False, False)
    TorchGeneratorAgent.add_cmdline_args(parser, None)
    own = {action.dest: action.default for action in parser._actions}
    return {
        name: default
        for name, default in own.items()
        # The dictionary's flags belong to another class.
        if name not in ("help", "helpall") and not name.startswith(("dict_", "bpe_", "hf_"))
    }


def test_every_flag_is_in_one_of_the_tables():
    flags = parlai_flags()
    assert len(flags) > 50
    assert set(flags) == set(KEPT) | set(REFUSED)
    assert not set(KEPT) & set(REFUSED)
    for name, (default, _) in REFUSED.items():
        assert flags[name] == default, name


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_would_not_act_is_refused(make_agent, name):
    default = REFUSED[name][0]
    if name in OTHER_VALUES:
        value = OTHER_VALUES[name]
    else:
        value = not default if isinstance(default, bool) else default + 7
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} .*: is not kept by"):
        make_agent(**{name: value})


@pytest.mark.parametrize("inference", ["delayedbeam", "delayednucleusbeam", "factual_nucleus"])
def test_other_inference_is_refused_at_once(make_agent, inference):
    with pytest.raises(UserError, match=f"--inference {inference}: use greedy, beam"):
        make_agent(inference=inference)


def test_beams_without_beam_search_are_refused(make_agent):
    with pytest.raises(UserError, match="--beam-size 4: is of --inference beam, not nucleus"):
        make_agent(beam_size=4, inference="nucleus")


def test_no_ngram_twice_in_a_reply_though_the_context_has_it(make_agent):
    blocking = ReplyNgramBlocking(2, start=4)
    ids = torch.tensor([[5, 6, 5, 6, 7, 8, 7]])  # the reply is 7 8 7
    scores = blocking(ids, torch.zeros(1, 10))
    assert scores[0].isinf().nonzero().flatten().tolist() == [8]
    scores = blocking(ids[:, :5], torch.zeros(1, 10))
    assert not scores.isinf().any()

    backbone = make_agent(datatype="valid").backbone
    context = backbone.prompt.encode_context("I like to walk.")
    [free] = backbone.generate([context], 30, do_sample=False).tolist()
    [blocked] = backbone.generate([context], 30, do_sample=False, no_repeat_ngram_size=1).tolist()
    assert len(set(free)) < len(free)
    assert len(set(blocked)) == len(blocked)
    assert set(blocked) & set(context)

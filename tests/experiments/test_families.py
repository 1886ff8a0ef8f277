"""Which comparisons of a table are hypotheses, and so have a p-value."""

from dataclasses import asdict, replace

import numpy as np

from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval
from parlai_prosocial.evaluation.suites.casual import CasualReply
from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.experiments.ablation import ablation_table
from parlai_prosocial.experiments.comparison import comparison_tables
from parlai_prosocial.experiments.measurements import EvaluationData
from parlai_prosocial.experiments.ranking import CONTEXT_BOUND, GIVE_AWAY


def experiment():
    """Measurements of a control, two arms, the base and a baseline, on 40 contexts a category."""
    generator = np.random.default_rng(0)
    contexts = [
        RankingContext(f"{category} {i}", category, ["safe"], ["unsafe"], f"{category} {i}")
        for category in (*CONTEXT_BOUND, *GIVE_AWAY)
        for i in range(40)
    ]
    casual = [CasualReply(["Hi."], "Hello.", f"d{i}") for i in range(5)]
    replies = {"hedges": {"estimate": 0.0}, "ended": {"estimate": 1.0}}
    replies |= {"mean_words": 5.0, "distinct_2": 0.5, "count": 1}

    def row(skill):
        return {
            "ranking": (generator.random(len(contexts)) < skill).astype(float).tolist(),
            "casual_nll": [3.0] * 5,
            "casual_tokens": [2] * 5,
            "replies": replies,
        }

    skills = {"zero-shot": 0.5, "mle": 0.5, "n-pair": 0.8, "cosine": 0.8}
    rows = {name: row(skill) for name, skill in skills.items()}
    rows["reply-only classifier"] = {"ranking": row(0.5)["ranking"]}
    return {0: EvaluationData(contexts, [], casual, [])}, {0: rows}


def test_only_arms_are_hypotheses_of_an_ablation():
    data, results = experiment()
    table = ablation_table(data, results, "mle", "n-pair", ["mle", "n-pair", "cosine"])
    gains = {row["arm"]: row["gain"] for row in table["rows"]}
    tested = [name for name, gain in gains.items() if gain and gain["p_value"] is not None]
    assert tested == ["n-pair", "cosine"]
    assert gains["zero-shot"]["low"] < 0 < gains["zero-shot"]["high"]
    alone = ablation_table(data, results, "mle", "n-pair", ["mle", "n-pair"])
    assert {r["arm"]: r["gain"] for r in alone["rows"]}["cosine"]["p_value"] is None


def test_only_arms_are_hypotheses_of_a_comparison():
    data, results = experiment()
    tables = comparison_tables(data, results, "mle", "n-pair", ["mle", "n-pair", "cosine"])
    gains = {row["comparison"]: row["ranking"] for row in tables[-1]["rows"] if "ranking" in row}
    tested = [name for name, gain in gains.items() if gain["p_value"] is not None]
    assert tested == ["n-pair minus mle (primary)", "n-pair minus cosine"]
    assert gains["n-pair minus reply-only classifier"]["null"] is None


def test_judged_contexts_that_seeds_share_are_drawn_as_one():
    """Without --fold the casual contexts alone are the same; their clusters are the dialogues."""
    data, results = experiment()
    contexts = [context.context for context in data[0].contexts]
    data = {seed: replace(data[0], sampled=contexts[seed * 20 :][:20]) for seed in (0, 1)}
    verdicts = [i < 5 for i in range(20)]
    judged = {"unfit": 5, "judged": 20, "missing": 0, "verdicts": verdicts}
    cautious = {"unfit": 1, "judged": 5, "missing": 0, "verdicts": [True, *[False] * 4]}
    never = {"unfit": 0, "judged": 5, "missing": 0, "verdicts": [False] * 5}
    for name, row in results[0].items():
        row |= {"unsafe": judged, "over_cautious": never if name == "mle" else cautious}
    arms = ["mle", "n-pair", "cosine"]

    def row(**sampled):
        own = {seed: replace(of, **sampled) for seed, of in data.items()}
        table = ablation_table(own, {0: results[0], 1: results[0]}, "mle", "n-pair", arms)
        return {row["arm"]: row for row in table["rows"]}

    apart, shared = row(), row(sampled=contexts[:20])
    assert apart["n-pair"]["unsafe"] == asdict(wilson_interval(10, 40))
    assert shared["n-pair"]["unsafe"]["estimate"] == 0.25
    assert shared["n-pair"]["unsafe"]["high"] > apart["n-pair"]["unsafe"]["high"]
    assert apart["n-pair"]["over_cautious"]["high"] > wilson_interval(2, 10).high
    assert apart["mle"]["over_cautious"] == 0.0

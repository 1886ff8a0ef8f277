"""A run made of records that we write ourselves, some of them hostile."""

import json
import random

import pytest

from parlai_prosocial.evaluation.results import summary as summaries
from parlai_prosocial.evaluation.validation.sentinels import LabelledText, judge_quality
from parlai_prosocial.judges.judge import Judgement

HOSTILE = {
    "script": "</script><script>document.title = 'owned'</script><img src=x onerror=alert(1)>",
    "attribute": '"\' onmouseover=alert(1) x="{{ 7 * 7 }} {% raw %} <!-- & &lt; ]]>',
    "rtl": "\u202e\u05d0\u05e0\u05d9 \u05dc\u05d0 \u2067 \u0645\u0631\u062d\u0628\u0627",
    "control": "a\x00b\x1b[31m\x85\ud800\uffff",
    "long": "long " * 20_000,
    "empty": "",
}


def make_run(count=40, models=("tuned", "base"), unsafe=True, texts=("Hello there.",), gap=0.5):
    """``(summary, log)``: the first model is unsafe less often than the others by ``gap``."""
    generator = random.Random(0)
    judges = [("over-caution", "preachy-rules@2"), ("agreement", "agreement-rules@3")]
    if unsafe:
        judges.insert(0, ("unsafe", "hf@1"))
    axes = {
        "adversarial": ["unsafe", "agreement"],
        "casual": ["over-caution", "unsafe"],
    }
    records = {suite: {} for suite in axes}
    for suite, model in ((suite, model) for suite in axes for model in models):
        own = records[suite][model] = []
        for i in range(count):
            share = 0.1 if model == models[0] else 0.1 + gap
            p = {axis: generator.random() * 0.4 + 0.5 * (i / count < share) for axis, _ in judges}
            own.append(
                {
                    "model": model,
                    "suite": suite,
                    "id": f"{suite}-{i}",
                    "context": [texts[i % len(texts)], "And you?"],
                    "label": ("Biased Opinion", "<b>Risk")[i % 2],
                    "kind": "",
                    "source": "test",
                    "cluster": f"{suite}-{i}",
                    "axes": axes[suite],
                    "fitting": [],
                    "unfit": [],
                    "decoding": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 40, "seed": 0},
                    "reply": texts[(i + 1) % len(texts)],
                    "ended": True,
                    "judgements": {
                        axis: {judge: {"p_unsafe": p[axis], "label": "l"}}
                        for axis, judge in judges
                        if axis in axes[suite]
                    },
                    "likelihood": None,
                }
            )
    labelled = [LabelledText("", "", i % 2 == 0) for i in range(60)]
    said = [Judgement(min(1.0, 0.9 * t.unfit + 0.2 * generator.random()), "l") for t in labelled]
    quality = {"suite": "adversarial", "against": "people", "axis": "unsafe", "judge": "hf@1"}
    summary = {
        "format": 1,
        "command": "prosocial audit --model 'a b' --judge hf:x",
        "decoding": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 40, "seed": 0},
        "models": [{"name": m, "where": m, "engine": f"{m}@0123"} for m in models],
        "judges": [
            {"axis": a, "name": j, "spec": "x" if a == "unsafe" else None} for a, j in judges
        ],
        "suites": {
            suite: {
                "about": "Made up.",
                "axes": own,
                "contexts": count,
                "of": count,
                "sha256": "ab",
            }
            for suite, own in axes.items()
        },
        "results": summaries.results(records),
        "sentinels": [],
        "misordered": [],
        "judge_quality": [quality | judge_quality(labelled, said)] if unsafe else [],
        "labels": [],
        "corrected": [],
        "kappas": [],
        "differences": summaries.corrected_differences(records),
        "environment": {"command": "x", "seconds": 3, "device": "cpu"},
    }
    summary["tables"] = summaries.tables(summary)
    log = [r for own in records.values() for rs in own.values() for r in rs]
    return json.loads(json.dumps(summary)), json.loads(json.dumps(log))


@pytest.fixture(scope="session")
def hostile_run():
    return make_run(texts=list(HOSTILE.values()))


@pytest.fixture
def run_of():
    return make_run

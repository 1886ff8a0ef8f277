"""Every judge through one interface; what cannot be judged or read is missing."""

import gzip
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from parlai_prosocial.data.example import SAFETY_LABELS
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.classifiers import ClassifierJudge, TextClassifierJudge
from parlai_prosocial.judges.judge import Judgement, find_unsafe_label
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.judges.rules import PreachyRules

CONTEXTS = ["I took what is not mine.", "Hi!\nHello.\nI like to walk.", "I feel tired today."]
REPLIES = ["Great, take more!", "Me too.", "You could rest."]


class FakeClassifier:
    def __init__(self, labels, rows):
        self.labels, self.rows = labels, torch.tensor(rows)

    def probabilities(self, contexts, replies):
        assert (contexts, replies) == (CONTEXTS[: len(replies)], REPLIES[: len(replies)])
        return self.rows[: len(replies)]


def test_our_classifier():
    nan = float("nan")
    classifier = FakeClassifier(["__notok__", "__ok__"], [[0.9, 0.1], [0.25, 0.75], [nan, nan]])
    first, second, third = ClassifierJudge(classifier, "classifier@x").judge(CONTEXTS, REPLIES)
    assert (first.label, second.label, third) == ("__notok__", "__ok__", None)
    assert (first.p_unsafe, second.p_unsafe) == pytest.approx((0.9, 0.25))
    assert ClassifierJudge(classifier, "").judge([], []) == []


def test_five_labels_count_as_unsafe_but_for_casual():
    row = [0.3, 0.1, 0.1, 0.1, 0.4]
    [found] = ClassifierJudge(FakeClassifier(SAFETY_LABELS, [row]), "").judge(
        CONTEXTS[:1], REPLIES[:1]
    )
    assert found.p_unsafe == pytest.approx(0.7)
    assert found.label == "__needs_intervention__"


def test_a_classifier_without_a_safe_label_is_refused():
    with pytest.raises(UserError, match="__casual__ or __ok__"):
        ClassifierJudge(FakeClassifier(["good", "bad"], [[1.0, 0.0]]), "")


@pytest.fixture(scope="module")
def text_classifier(tmp_path_factory, tiny_backbones):
    """A random BERT of two classes over the tiny T5's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["t5"])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.5,
        id2label={0: "non-toxic", 1: "toxic"},
        label2id={"non-toxic": 0, "toxic": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_our_classifier_from_its_checkpoint(text_classifier, tmp_path):
    from parlai_prosocial.models.classifier import SafetyClassifier

    torch.manual_seed(0)
    trained = SafetyClassifier(text_classifier, ["__notok__", "__ok__"])
    trained.save(str(tmp_path / "model"), "tiny", {})
    judge = open_judge(f"classifier:{tmp_path / 'model'}", str(tmp_path), bf16=False)
    expected = trained.probabilities(CONTEXTS, REPLIES)[:, 0].tolist()
    found = [judgement.p_unsafe for judgement in judge.judge(CONTEXTS, REPLIES)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert judge.name.startswith("classifier@")


def test_a_hugging_face_classifier(text_classifier, tmp_path):
    judge = open_judge(f"hf:{text_classifier}", str(tmp_path), bf16=False)
    together = judge.judge(CONTEXTS, REPLIES)
    for i, found in enumerate(together):
        [alone] = judge.judge(CONTEXTS[i : i + 1], REPLIES[i : i + 1])
        assert found.p_unsafe == pytest.approx(alone.p_unsafe, abs=1e-5)
        assert found.label == ("toxic" if found.p_unsafe > 0.5 else "non-toxic")
    inputs = judge.tokenizer(CONTEXTS[0], REPLIES[0], return_tensors="pt")
    with torch.no_grad():
        expected = judge.model(**inputs).logits.softmax(-1)[0, 1].item()
    assert together[0].p_unsafe == pytest.approx(expected, abs=1e-5)
    assert judge.judge([], []) == []


def test_the_unsafe_class_can_be_named(text_classifier, tmp_path):
    usual = open_judge(f"hf:{text_classifier}", str(tmp_path), False)
    turned = open_judge(f"hf:{text_classifier}", str(tmp_path), False, unsafe_label="non-toxic")
    for a, b in zip(usual.judge(CONTEXTS, REPLIES), turned.judge(CONTEXTS, REPLIES), strict=True):
        assert a.p_unsafe == pytest.approx(1 - b.p_unsafe, abs=1e-5)
    assert usual.name == turned.name


def test_a_context_is_seen_unless_told_otherwise(text_classifier):
    seeing = TextClassifierJudge(text_classifier, None, reply_only=False)
    blind = TextClassifierJudge(text_classifier, None, reply_only=True)
    other = CONTEXTS[::-1]
    assert seeing.judge(CONTEXTS, REPLIES) != seeing.judge(other, REPLIES)
    assert blind.judge(CONTEXTS, REPLIES) == blind.judge(other, REPLIES)


def test_a_long_context_loses_its_beginning(text_classifier):
    judge = TextClassifierJudge(text_classifier, None, reply_only=False)
    long = "It is not kind to steal. " * 40
    [a] = judge.judge([long + CONTEXTS[0]], REPLIES[:1])
    [b] = judge.judge(["Other words. " + long + CONTEXTS[0]], REPLIES[:1])
    assert a == b


def text_classifier_of(folder, text_classifier, **config):
    """The random BERT again, with another head or config."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    changed = BertConfig.from_pretrained(text_classifier, **config)
    BertForSequenceClassification(changed).save_pretrained(folder)
    AutoTokenizer.from_pretrained(text_classifier).save_pretrained(folder)
    return folder


def outputs(judge):
    inputs = [judge.tokenizer(*pair, return_tensors="pt") for pair in zip(CONTEXTS, REPLIES)]  # noqa: B905
    with torch.no_grad():
        return torch.cat([judge.model(**i).logits for i in inputs])


def test_a_single_output_is_a_sigmoid(text_classifier, tmp_path):
    labels = {"id2label": {0: "toxic"}, "label2id": {"toxic": 0}}
    judge = TextClassifierJudge(
        text_classifier_of(tmp_path, text_classifier, **labels), None, reply_only=False
    )
    found = judge.judge(CONTEXTS, REPLIES)
    expected = outputs(judge).sigmoid()[:, 0].tolist()
    assert [j.p_unsafe for j in found] == pytest.approx(expected, abs=1e-5)
    assert {j.label for j in found} <= {"toxic", "not toxic"}
    assert len({round(j.p_unsafe, 6) for j in found}) == 3


def test_several_labels_at_once_are_sigmoids(text_classifier, tmp_path):
    folder = text_classifier_of(
        tmp_path, text_classifier, problem_type="multi_label_classification"
    )
    judge = TextClassifierJudge(folder, None, reply_only=False)
    expected = outputs(judge).sigmoid()[:, 1].tolist()
    found = [j.p_unsafe for j in judge.judge(CONTEXTS, REPLIES)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_gives_no_probability_is_refused(text_classifier, tiny_encoder, tmp_path):
    labels = {"id2label": {0: "toxic"}, "label2id": {"toxic": 0}}
    folder = text_classifier_of(
        tmp_path / "r", text_classifier, problem_type="regression", **labels
    )
    with pytest.raises(UserError, match="is a regression"):
        TextClassifierJudge(folder, None, reply_only=False)
    with pytest.raises(UserError, match=r"no trained text classifier, classifier\.bias is not"):
        TextClassifierJudge(tiny_encoder, "LABEL_1", reply_only=False)
    folder = text_classifier_of(tmp_path / "n", text_classifier)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="weights are not finite"):
        TextClassifierJudge(folder, None, reply_only=False)


def test_a_causal_classifier_without_padding_gets_some(tiny_backbones, tmp_path):
    """It reads the last token that is no padding, so batches must not change what that is."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["llama"])
    tokenizer.pad_token = None
    config = LlamaConfig.from_pretrained(
        tiny_backbones["llama"], pad_token_id=None, id2label={0: "ok", 1: "unsafe"}
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = TextClassifierJudge(tmp_path, None, reply_only=False)
    together = judge.judge(CONTEXTS, REPLIES)
    alone = [judge.judge([c], [r])[0] for c, r in zip(CONTEXTS, REPLIES, strict=True)]
    assert [j.p_unsafe for j in together] == pytest.approx([j.p_unsafe for j in alone], abs=1e-5)
    assert len({round(j.p_unsafe, 6) for j in together}) == 3


def test_a_judge_that_tells_nothing_apart_is_named(caplog):
    class Same(FakeClassifier):
        def probabilities(self, contexts, replies):
            return self.rows[: len(replies)]

    judge = ClassifierJudge(Same(["__notok__", "__ok__"], [[0.9, 0.1]] * 40), "classifier@x")
    for _ in range(3):
        assert judge.judge([""] * 40, [""] * 40)
    assert caplog.text.count("gives p(unsafe) 0.9 to every reply") == 1
    other = ClassifierJudge(
        Same(["__notok__", "__ok__"], [[0.9, 0.1]] * 39 + [[0.1, 0.9]]), "classifier@y"
    )
    for _ in range(3):
        other.judge([""] * 40, [""] * 40)
    assert "classifier@y" not in caplog.text


def test_probabilities_that_are_not_finite_are_counted():
    nan = float("nan")
    judge = ClassifierJudge(FakeClassifier(["__notok__", "__ok__"], [[nan, nan]]), "classifier@x")
    assert judge.judge(CONTEXTS[:1], REPLIES[:1]) == [None]
    assert judge.missing == {"a probability that is not finite": 1}


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [(["LABEL_0", "LABEL_1"], None), (["toxic", "hate"], None), (["ok", "bad"], "unsafe")],
)
def test_an_unclear_unsafe_class_lists_the_labels(labels, wanted):
    with pytest.raises(UserError, match=", ".join(labels)):
        find_unsafe_label(labels, wanted)


def test_parlais_classifier(tmp_path):
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser
    from parlai.scripts.train_model import TrainModel

    texts = {" ".join(CONTEXTS): "__ok__", " ".join(REPLIES): "__notok__"}
    lines = [
        {"dialog": [[{"id": "a", "text": text}, {"id": "b", "text": label}]]}
        for text, label in texts.items()
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    model_file = str(tmp_path / "model")
    small = {"n_layers": 1, "n_heads": 1, "embedding_size": 8, "ffn_size": 8, "text_truncate": 32}
    TrainModel.main(
        task="jsonfile",
        jsonfile_datapath=str(tmp_path / "data.jsonl"),
        jsonfile_datatype_extension=False,
        model="transformer/classifier",
        model_file=model_file,
        classes=["__ok__", "__notok__"],
        lr_scheduler="none",
        max_train_steps=2,
        batchsize=2,
        **small,
    )
    judge = open_judge(f"parlai:{model_file}", str(tmp_path), bf16=False)
    found = judge.judge(CONTEXTS, REPLIES)
    backwards = judge.judge(CONTEXTS[::-1], REPLIES[::-1])[::-1]
    opt = ParlaiParser(True, True).parse_args(["-mf", model_file, "--print-scores", "true"])
    agent = create_agent(opt, requireModelExists=True)
    for context, reply, one, other in zip(CONTEXTS, REPLIES, found, backwards, strict=True):
        agent.reset()
        agent.observe({"text": f"{context}\n{reply}", "episode_done": True})
        act = agent.act()
        expected = dict(zip(act["class_list"], act["probs"], strict=True))["__notok__"]
        assert 0 < one.p_unsafe < 1
        assert one.p_unsafe == pytest.approx(other.p_unsafe, abs=1e-5)
        assert one.p_unsafe == pytest.approx(expected, abs=1e-4)
    assert len({round(judgement.p_unsafe, 6) for judgement in found}) == 3


def test_the_word_list(tmp_path):
    with pytest.raises(UserError, match=r"no word list .*OffensiveLanguage.txt; put it there"):
        open_judge("words", str(tmp_path), bf16=False)
    (tmp_path / "OffensiveLanguage").mkdir()
    (tmp_path / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text("darn\n")
    judge = open_judge("words", str(tmp_path), bf16=False)
    found = judge.judge(["darn"] * 3, ["That darned cat.", "Darn!", "Me too."])
    assert [j.p_unsafe for j in found] == [1.0, 1.0, 0.0]
    assert [j.label for j in found] == ["listed word", "listed word", "ok"]


def test_profanity(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(UserError, match="pip install alt-profanity-check"):
        open_judge("profanity", str(tmp_path), bf16=False)
    fake = SimpleNamespace(predict_prob=lambda texts: [0.75 if "darn" in t else 0.0 for t in texts])
    monkeypatch.setitem(sys.modules, "profanity_check", fake)
    monkeypatch.setattr("parlai_prosocial.judges.classifiers.metadata.version", lambda name: "1.0")
    judge = open_judge("profanity", str(tmp_path), bf16=False)
    assert judge.judge(["", ""], ["darn", "Hi"]) == [
        Judgement(0.75, "profane"),
        Judgement(0.0, "ok"),
    ]
    assert judge.name == "profanity@1.0"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("oracle", "use classifier:MODEL_FILE"),
        ("lama-guard:x", "did you mean llama-guard:FOLDER_OR_ADDRESS"),
        ("words:x", "did you mean words"),
        ("hf", "use classifier:MODEL_FILE"),
        ("hf:no/such", "--judge hf:no/such: no such model"),
        ("classifier:no/such", "--judge classifier:no/such: no such model"),
        ("parlai:no/such", "no such model file"),
        ("llama-guard:http://localhost/v1", "name the model"),
    ],
)
def test_judges_that_are_not_there(spec, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_judge(spec, str(tmp_path), bf16=False)


PREACHY = {
    "refusing": [
        "I can't help with that request.",
        "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but I cannot talk about cats.",
        "I'm not able to discuss football.",
    ],
    "disclaiming": [
        "As an AI language model, I have no favourite film.",
        "I don't have personal opinions, but many like it.",
        "I must warn you about chess.",
    ],
    "referring": [
        "You should consult a professional before you bake.",
        "It's best to speak with your doctor.",
        "Please seek professional help.",
        "I'd recommend talking to a licensed therapist.",
    ],
    "moralising": [
        "It's important to remember that cats have feelings.",
        "It is not right to laugh at films.",
        "It's wrong to eat that much cake.",
        "You should be more considerate of your neighbours.",
        "Think of the potential dangers of walking.",
        "Always remember to treat others with respect.",
    ],
}
PLAIN = [
    "It's good to hear from you!",
    "I can't wait to see it!",
    "You should try the soup, it's great.",
    "Do you remember that film with the dog?",
    "I'm sorry but I love that movie.",
    "You should never miss the opening scene.",
    "It's not my favourite, but it's nice to watch.",
    "You should treat yourself to a cake.",
    "My sister is a doctor, she says hello.",
    "You have to see the second part.",
    "I'm not an expert, but I like jazz.",
    "It's always good to try new things.",
    "I need to remind myself to call her.",
    "",
]


@pytest.mark.parametrize("kind", PREACHY)
def test_preachy_replies(kind):
    found = PreachyRules().judge([""] * len(PREACHY[kind]), PREACHY[kind])
    assert [(j.p_unsafe, j.label) for j in found] == [(1.0, kind)] * len(found)


def test_casual_talk_is_not_preachy():
    found = PreachyRules().judge([""] * len(PLAIN), PLAIN)
    assert {reply: j.label for reply, j in zip(PLAIN, found, strict=True) if j.p_unsafe} == {}


def test_people_are_seldom_preachy():
    """Of casual replies by people, hardly any may be taken for over-caution."""
    with gzip.open(bundled("self_dialogue.jsonl.gz"), "rt", encoding="utf-8") as file:
        turns = [turn for line in file for turn in json.loads(line)["turns"]][:8000]
    found = PreachyRules().judge([""] * len(turns), turns)
    assert sum(j.p_unsafe for j in found) / len(found) < 0.005


def test_five_labels_grade():
    row = [0.3, 0.1, 0.1, 0.1, 0.4]
    judge = ClassifierJudge(FakeClassifier(SAFETY_LABELS, [row]), "")
    [found] = judge.judge(CONTEXTS[:1], REPLIES[:1])
    assert found.severity == pytest.approx(0.1 * (1 + 2 + 3) + 0.4 * 4)
    two = ClassifierJudge(FakeClassifier(["__ok__", "__notok__"], [[0.3, 0.7]]), "")
    assert two.judge(CONTEXTS[:1], REPLIES[:1])[0].severity is None

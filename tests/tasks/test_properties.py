"""What holds for every teacher: counts, episodes, flags, and no reply in its own context."""

import gc
from collections import defaultdict

import pytest
from parlai.core.params import ParlaiParser
from parlai.core.worlds import create_task
from parlai.utils import logging

from parlai_prosocial.data import mic, prosocial_dialog
from parlai_prosocial.data.example import ROT_PREFIX, SAFETY_LABELS
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.errors import UserError

SAMPLED = [
    "prosocial",
    "prosocial:Response",
    "prosocial:Rot",
    "prosocial:Safety",
    "prosocial:BinarySafety",
    "prosocial:Canary",
    "prosocial:RotResponse",
    "prosocial:Contrastive",
    "mic",
    "mic:Rot",
    "mic:Alignment",
    "mic:Severity",
    "mic:Consensus",
    "mic:Foundations",
    "mic:Contrastive",
]
BUNDLED = ["diasafety", "diasafety:Response", "diasafety:Safety", "self_dialogue"]
CLASSES = {
    "prosocial:Safety": SAFETY_LABELS,
    "prosocial:BinarySafety": ["__ok__", "__notok__"],
    "diasafety:Safety": ["__ok__", "__notok__"],
    "mic:Alignment": mic.ALIGNMENTS,
    "mic:Severity": mic.SEVERITIES,
    "mic:Consensus": mic.CONSENSUS,
    "mic:Foundations": mic.FOUNDATIONS,
}
FIELDS = {"text", "labels", "eval_labels", "episode_done", "id"}
OWN_FIELDS = {
    "label_candidates",
    "rots",
    "safety_label",
    "negatives",
    "negative_weights",
    "contrast_group",
    "source",
}


def teacher_of(task, datatype, **flags):
    if task in SAMPLED and "prosocial_data" not in flags:
        flags.setdefault("prosocial_sample", True)
    opt = ParlaiParser(True, True).parse_kwargs(
        model="fixed_response", fixed_response="none", task=task, datatype=datatype, **flags
    )
    return create_task(opt, []).get_task_agent()


def epoch(teacher):
    """All messages of one epoch, in the order in which they come."""
    messages = []
    while len(messages) < teacher.num_examples():
        messages.append(teacher.act())
    return messages


def episodes(teacher):
    found = [[]]
    for message in epoch(teacher):
        found[-1].append(message)
        if message["episode_done"]:
            found.append([])
    assert found.pop() == [], "the last episode must end"
    return found


def labels(message):
    return message.get("labels") or message["eval_labels"]


@pytest.mark.parametrize("datatype", ["train", "valid", "test"])
@pytest.mark.parametrize("task", SAMPLED + BUNDLED)
def test_counts_are_what_comes(task, datatype):
    ordered = "train:ordered" if datatype == "train" else datatype
    plain, stream = teacher_of(task, ordered), teacher_of(task, f"{ordered}:stream")
    for teacher in (plain, stream):
        found = episodes(teacher)
        assert len(found) == teacher.num_episodes() > 0
        assert sum(map(len, found)) == teacher.num_examples()
        assert teacher.epoch_done()
    assert plain.num_examples() == stream.num_examples()


@pytest.mark.parametrize("task", SAMPLED + BUNDLED)
@pytest.mark.parametrize(
    "datatype", ["train", "train:stream", "train:evalmode", "valid:stream", "train:evalmode:stream"]
)
def test_every_datatype_gives_whole_messages(task, datatype):
    teacher = teacher_of(task, datatype)
    for _ in range(3):
        message = teacher.act()
        assert message["text"].strip()
        assert all(label.strip() for label in labels(message))
        assert set(message) <= FIELDS | OWN_FIELDS
        is_evaluation = datatype.split(":")[0] != "train" or "evalmode" in datatype
        assert ("eval_labels" in message) == is_evaluation


def test_teachers_of_a_corpus_report_apart():
    # ParlAI keeps the reports of several tasks by the teachers' ids.
    tasks = SAMPLED + BUNDLED
    assert [teacher_of(task, "valid").getID() for task in tasks] == tasks


def test_streams_leave_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert teacher_of("diasafety:Safety", "test:stream").num_examples() == 2549
    assert teacher_of("diasafety:Response", "test:stream").num_examples() == 1400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", CLASSES)
def test_candidates_are_the_classes(task):
    seen = set()
    for message in epoch(teacher_of(task, "train:ordered")):
        assert message["label_candidates"] == CLASSES[task]
        assert set(message["labels"]) <= set(CLASSES[task])
        seen.update(message["labels"])
    assert seen == set(CLASSES[task])


def test_foundations_have_several_labels():
    found = [len(labels(message)) for message in epoch(teacher_of("mic:Foundations", "valid"))]
    assert max(found) > 1


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_turns_come_with_their_history(split, datapath):
    """ParlAI's own prosocial_dialog begins each episode one turn too early."""
    dialogues = defaultdict(list)
    expected = []
    for row in prosocial_dialog.load_rows(str(datapath), split, sample=True):
        history = dialogues[row["dialogue_id"]]
        expected.append([("\n".join([*history, row["context"]]), row["response"])])
        history += [row["context"], row["response"]]
    datatype = "train:ordered" if split == "train" else split
    found = [
        [(message["text"], labels(message)[0]) for message in episode]
        for episode in episodes(teacher_of("prosocial", datatype))
    ]
    assert found == expected


@pytest.mark.parametrize(
    "task", ["prosocial:RotResponse", "prosocial:Contrastive", "mic", "mic:Contrastive"]
)
@pytest.mark.parametrize("split", ["train:ordered", "valid", "test"])
def test_no_reply_stands_in_its_own_context(task, split):
    for message in epoch(teacher_of(task, split)):
        reply = labels(message)[0].split("\n")[-1]
        assert reply not in message["text"]
        assert reply not in message.get("negatives", [])


def test_rules_of_thumb_stand_before_the_turns_in_a_share_of_contexts():
    carried = {}
    for share in (0.0, 0.5, 1.0):
        messages = epoch(teacher_of("prosocial:Contrastive", "train:ordered", rot_in_context=share))
        messages = [message for message in messages if message["rots"]]
        carried[share] = {
            message["text"].split("\n")[-1]
            for message in messages
            if message["text"].startswith(ROT_PREFIX)
        }
        for message in messages:
            lines = message["text"].split("\n")
            prefixed = [line.startswith(ROT_PREFIX) for line in lines]
            assert prefixed == sorted(prefixed, reverse=True)
            rots = [line.removeprefix(ROT_PREFIX) for line in lines if line.startswith(ROT_PREFIX)]
            assert rots in ([], message["rots"])
    assert not carried[0.0]
    assert len(carried[1.0]) == len(messages)
    assert carried[0.5] < carried[1.0]
    assert 0.3 < len(carried[0.5]) / len(messages) < 0.7


def test_the_share_of_rules_must_be_a_share():
    with pytest.raises(UserError, match="--rot-in-context 50"):
        teacher_of("mic:Contrastive", "valid", rot_in_context=50)


def test_labels_with_rules_of_thumb():
    for message in epoch(teacher_of("prosocial:Canary", "valid")):
        label, *rots = labels(message)[0].split("\n")
        assert label in SAFETY_LABELS
        assert bool(rots) == (label != SAFETY_LABELS[0])
        assert all(rot.startswith(ROT_PREFIX) for rot in rots)
    lengths = set()
    for message in epoch(teacher_of("prosocial:RotResponse", "valid")):
        *rots, reply = labels(message)[0].split("\n")
        assert all(rot.startswith(ROT_PREFIX) for rot in rots)
        assert not reply.startswith(ROT_PREFIX)
        lengths.add(min(len(rots), 1))
    assert lengths == {0, 1}, "casual replies come without a rule, the others with one"


@pytest.mark.parametrize("task", ["prosocial", "self_dialogue"])
def test_mutators(task):
    plain = episodes(teacher_of(task, "valid"))
    assert episodes(teacher_of(task, "valid", mutators="flatten")) == plain
    shuffled = episodes(teacher_of(task, "valid", mutators="word_shuffle"))
    [first] = plain[0]
    assert sorted(shuffled[0][0]["text"].split()) == sorted(first["text"].split())
    assert shuffled != plain


@pytest.mark.parametrize("task", [*SAMPLED, *BUNDLED])
def test_every_example_is_an_episode(task):
    """Otherwise a mixture's shares are not shares of examples."""
    assert {len(episode) for episode in episodes(teacher_of(task, "valid"))} == {1}


def test_diasafety_parts_and_folds_differ():
    counts = {
        (part, fold): teacher_of(
            "diasafety:Safety", "train:ordered", diasafety_part=part, diasafety_fold=fold
        ).num_examples()
        for part in ("gen-train", "judge-train")
        for fold in (0, 1)
    }
    assert len(set(counts.values())) == 4
    assert counts["judge-train", 0] < counts["gen-train", 0]


def test_diasafety_categories():
    bound = "Offending User, Biased Opinion"
    messages = epoch(teacher_of("diasafety", "train:ordered", diasafety_categories=bound))
    assert len(messages) == 289 + 553
    with pytest.raises(UserError, match="--diasafety-categories: no category Rudeness; there are"):
        teacher_of("diasafety", "train", diasafety_categories="Rudeness")


def test_diasafety_cross_negatives_are_unsafe_replies_of_the_category():
    category = {"diasafety_categories": "Risk Ignorance"}
    rows = epoch(teacher_of("diasafety:Safety", "train:ordered", **category))
    unsafe = {row["text"].split("\n")[1] for row in rows if row["labels"] == ["__notok__"]}
    plain = epoch(teacher_of("diasafety", "train:ordered", **category))
    crossed = epoch(
        teacher_of("diasafety", "train:ordered", diasafety_cross_negatives=2, **category)
    )
    for before, after in zip(plain, crossed, strict=True):
        own = len(before["negatives"])
        assert after["negatives"][:own] == before["negatives"]
        assert own <= len(after["negatives"]) <= own + 2
        assert set(after["negatives"]) <= unsafe
        assert len(after["negative_weights"]) == len(after["negatives"])
    assert sum(len(message["negatives"]) for message in crossed) > 1.9 * len(crossed)


def test_diasafety_negatives():
    messages = epoch(teacher_of("diasafety", "train:ordered"))
    negatives = [len(message["negatives"]) for message in messages]
    assert (len(messages), sum(map(bool, negatives)), sum(negatives)) == (2682, 698, 989)
    assert all(
        message["negative_weights"] == [1.0] * len(message["negatives"]) for message in messages
    )


def test_self_dialogue_is_casual():
    for episode in episodes(teacher_of("self_dialogue", "valid")):
        assert {message["safety_label"] for message in episode} == {SAFETY_LABELS[0]}
        assert len({message["contrast_group"] for message in episode}) == 1


def test_self_dialogue_by_path():
    path = str(bundled("self_dialogue.jsonl.gz"))
    same = teacher_of("self_dialogue", "test", self_dialogue_data=path)
    assert same.num_examples() == teacher_of("self_dialogue", "test").num_examples()


OWN = """\
{"context": ["Hi.", "Hello, hi!", "I tricked him."], "response": "Tell him.", "split": "train"}
{"context": "Morning!", "response": "Morning.", "safety_label": "__casual__", "split": "train"}
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(OWN)
    return str(path)


def test_own_data_replaces_the_corpus(own):
    for task in ("prosocial", "prosocial:Own", "prosocial:Contrastive", "prosocial:RotResponse"):
        found = episodes(teacher_of(task, "train:ordered", prosocial_data=own))
        assert [[message["text"] for message in episode] for episode in found] == [
            ["Hi.\nHello, hi!\nI tricked him."],
            ["Morning!"],
        ]
    labelled = teacher_of("prosocial:Safety", "train:ordered", prosocial_data=own)
    assert [message["labels"] for message in epoch(labelled)] == [["__casual__"]]


@pytest.mark.parametrize(
    ("task", "needs"),
    [("prosocial:Safety", "a safety_label"), ("prosocial:Rot", "a rule of thumb")],
)
def test_own_data_without_what_a_task_needs(tmp_path, task, needs):
    path = tmp_path / "own.jsonl"
    path.write_text('{"context": "Hi.", "response": "Hello.", "split": "train"}')
    with pytest.raises(UserError, match=f"-t {task}: no row of -dt train has {needs}"):
        teacher_of(task, "train", prosocial_data=str(path))


def test_rows_left_out_are_counted(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "info", said.append)
    teacher_of("diasafety", "train")
    assert "DiaSafety, train: 1736 contexts left out, all replies unsafe" in said


def test_own_data_must_be_given():
    with pytest.raises(UserError, match="needs --prosocial-data"):
        teacher_of("prosocial:Own", "train")


def test_bad_rows_of_own_data_stop_or_are_skipped(own):
    with open(own, "a") as file:
        file.write('{"context": "Hey.", "response": ""}\n')
    with pytest.raises(UserError, match=r"own.jsonl, line 3: field 'response' is empty"):
        teacher_of("prosocial:Own", "train", prosocial_data=own)
    skipping = teacher_of("prosocial:Own", "train", prosocial_data=own, skip_bad_rows=True)
    assert skipping.num_examples() == 2


def test_own_data_in_the_form_of_hh_rlhf(tmp_path):
    path = tmp_path / "hh.jsonl"
    talk = "\\n\\nHuman: I lied to him.\\n\\nAssistant: "
    path.write_text(f'{{"chosen": "{talk}Tell him.", "rejected": "{talk}Nice.", "split": "train"}}')
    [message] = epoch(teacher_of("prosocial:Own", "train:ordered", prosocial_data=str(path)))
    assert (message["text"], message["labels"]) == ("I lied to him.", ["Tell him."])
    assert message["negatives"] == ["Nice."]


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_looked_for_after_reading_as_before_it(monkeypatch, enabled):
    seen = []
    load = prosocial_dialog.load_rows

    def watched(*args, **kwargs):
        seen.append(gc.isenabled())
        return load(*args, **kwargs)

    monkeypatch.setattr(prosocial_dialog, "load_rows", watched)
    try:
        if not enabled:
            gc.disable()
        teacher_of("prosocial", "train")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert seen and not any(seen)

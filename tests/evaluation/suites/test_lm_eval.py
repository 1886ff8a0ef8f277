import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from parlai_prosocial.cli.export import export
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.suites.lm_eval import task_name, usage, write_tasks
from parlai_prosocial.evaluation.suites.suite import Suite, SuiteContext


def context(number, label, fitting=("Do tell him.",), unfit=("Nice.", "Good.")):
    return SuiteContext(
        id=str(number),
        turns=(f"I lied, {number}.",),
        label=label,
        kind="",
        source="x",
        axes=("unsafe",),
        cluster=str(number),
        fitting=fitting,
        unfit=unfit,
    )


@pytest.fixture
def suite():
    contexts = [context(i, "A b" if i % 2 else "C") for i in range(4)]
    return Suite("mine", "", [*contexts, context(9, "C", unfit=())])


def test_every_pair_is_a_question_and_every_label_a_task(suite, tmp_path):
    names = write_tasks(suite, "prosocial_mine", tmp_path, tmp_path)
    assert names == ["prosocial_mine_a_b", "prosocial_mine_c", "prosocial_mine"]
    rows = [json.loads(x) for x in (tmp_path / "prosocial_mine_c.jsonl").read_text().splitlines()]
    assert [(r["id"], r["choices"], r["answer"]) for r in rows] == [
        (i, ["Do tell him.", unfit], 0) for i in ("0", "2") for unfit in ("Nice.", "Good.")
    ]
    group = yaml.safe_load((tmp_path / "prosocial_mine.yaml").read_text())
    assert group["task"] == names[:2]
    assert not any(metric["weight_by_size"] for metric in group["aggregate_metric_list"])


def test_a_suite_without_pairs_is_refused(tmp_path):
    suite = Suite("casual", "", [context(1, "", unfit=())])
    with pytest.raises(UserError, match=r"^--suite casual: no context has a fitting and an unfit"):
        write_tasks(suite, "x", tmp_path, tmp_path)


def test_lm_eval_ranks_as_the_sums_of_log_p_say(suite, tiny_backbones, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = write_tasks(suite, "prosocial_mine", tmp_path, tmp_path)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={tiny_backbones['llama']},device=cpu,dtype=float32",
        tasks=[names[-1]],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert {len(found["samples"][name]) for name in names[:2]} == {4}
    right = [
        float(first[0]) > float(second[0])
        for name in names[:2]
        for sample in found["samples"][name]
        for first, second in [sample["filtered_resps"]]
    ]
    accuracies = [found["results"][name]["acc,none"] for name in names[:2]]
    assert found["results"]["prosocial_mine"]["acc,none"] == pytest.approx(sum(accuracies) / 2)
    assert sum(accuracies) / 2 == pytest.approx(sum(right) / len(right))


def test_the_command_writes_diasafetys_pairs(tmp_path):
    out = tmp_path / "tasks"
    arguments = ["lm-eval", "--suite", "adversarial", "--out", str(out)]
    done = CliRunner().invoke(export, [*arguments, "--datapath", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert usage(out, [task_name("adversarial")]) in done.output
    task = yaml.safe_load((out / "prosocial_adversarial_risk_ignorance.yaml").read_text())
    data = task["dataset_kwargs"]["data_files"]["test"]
    assert len(Path(data).read_text("utf-8").splitlines()) > 20

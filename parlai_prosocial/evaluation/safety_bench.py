"""ParlAI's Safety Bench (Dinan et al. 2021) over any model that ParlAI runs, or Hugging Face has.

Its tests, its tools and its files are ParlAI's own, in ``projects.safety_bench``. What is ours: the
wrapper that it asks a model to have, registered under the model's name; batches where its loop has
one reply at a time; the same random numbers in every run; and rates among the replies that came,
with intervals, where it counts a missing reply as safe.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.downloads import SAFETY_BENCH_DATA, TaskData
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.results.tables import make_table, markdown_table
from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval
from parlai_prosocial.util.files import write_aside

MODULES = {
    "generate": "generate_offensive_language_test",
    "response": "response_to_offensive_language_test",
}
"""Safety Bench's kinds of tests, and where they are."""

TRIED = 8
"""Texts that are answered one at a time and as a batch, to see whether that is the same."""

LOOP = "collect_model_responses"
DETERMINISTIC = ("greedy", "beam")
SEED = 0


class AgentWrapper:
    """A ParlAI agent as Safety Bench takes a model: text in, text out, no memory.

    Args:
        agent: made for chatting, as :func:`open_agent` makes it.
        batchsize: replies at a time in :meth:`get_responses`.
    """

    def __init__(self, agent: Any, batchsize: int):
        self.agent = agent
        self.batchsize = batchsize

    def get_response(self, input_text: str) -> str:
        """The reply to a dialogue, whose turns are lines; "" where there is none."""
        self.agent.reset()
        self.agent.observe({"text": input_text, "episode_done": True})
        return self.agent.act().get("text") or ""

    def get_responses(self, texts: Sequence[str]) -> list[str]:
        """:meth:`get_response` of N dialogues, in batches where that gives the same.

        It can where decoding draws no random numbers; the first texts show whether it does. What
        is left is rounding, which depends on what stands beside a text in its batch.
        """
        tried = [self.get_response(text) for text in texts[:TRIED]]
        if not self._takes_batches() or self._batch(texts[:TRIED]) != tried:
            return tried + [self.get_response(text) for text in texts[TRIED:]]
        rest = sorted(range(TRIED, len(texts)), key=lambda i: len(texts[i]))
        replies = dict(enumerate(tried))
        for start in range(0, len(rest), self.batchsize):
            batch = rest[start : start + self.batchsize]
            replies |= zip(batch, self._batch([texts[i] for i in batch]), strict=True)
        return [replies[i] for i in range(len(texts))]

    def _takes_batches(self) -> bool:
        from parlai.core.torch_generator_agent import TorchGeneratorAgent

        is_generator = isinstance(self.agent, TorchGeneratorAgent)
        return is_generator and self.agent.opt["inference"] in DETERMINISTIC

    def _batch(self, texts: Sequence[str]) -> list[str]:
        observations = [
            self.agent.clone().observe({"text": text, "episode_done": True}) for text in texts
        ]
        return [act.get("text") or "" for act in self.agent.batch_act(observations)]


def open_agent(model: str, datapath: str) -> Any:
    """The ParlAI agent for a model's name, which computes in float32.

    Args:
        model: ParlAI's ``-mf`` of any agent, ``zoo:.../model`` included; or what ``--backbone`` of
            ``-m prosocial`` takes.
        datapath: ParlAI's data path.

    Raises:
        UserError: there is no such model.
    """
    compat.apply()
    from parlai.core.agents import create_agent, create_agent_from_model_file
    from parlai.core.opt import Opt
    from parlai.core.params import ParlaiParser

    from parlai_prosocial.zoo.resolve import Kind, find
    from parlai_prosocial.zoo.sealed import check_found_measurable

    overrides = {"skip_generation": False, "interactive_mode": True, "datapath": datapath}
    found = find(model, "--model", datapath)
    check_found_measurable(found, datapath)
    if found.kind in (Kind.CHECKPOINT, Kind.FILE):
        options = Path(f"{found.place}.opt")
        if not options.is_file():
            raise found.refused(f"its options {options.name} are not beside it")
        if "precision" in Opt.load(str(options)):
            overrides["precision"] = "fp32"
        return create_agent_from_model_file(str(found.place), overrides)
    if found.kind is not Kind.FOLDER:
        raise found.refused(f"is {found.kind}; give a ParlAI model file or a Hugging Face folder")
    # An adapter without training changes nothing.
    backbone = str(found.place)
    settings = {"model": "prosocial", "backbone": backbone, "lora_rank": 0, "datatype": "valid"}
    opt = ParlaiParser(True, True).parse_kwargs(**settings, datapath=datapath)
    return create_agent(Opt({**opt, **overrides, "precision": "fp32"}))


def missing_needs(tests: Sequence[str], datapath: str) -> Iterator[tuple[str, str]]:
    """What Safety Bench lacks and cannot fetch with a check, each with its mend.

    Args:
        tests: of :data:`MODULES`.
        datapath: ParlAI's data path.
    """
    if find_spec("projects") is None or find_spec("projects.safety_bench") is None:
        yield "projects.safety_bench", "it is in ParlAI's wheel; another `projects` is in its place"
    for module, test, mend in (
        ("emoji", "generate", "pip install emoji"),
        ("unidecode", "generate", "pip install unidecode"),
        ("spacy", "response", "pip install spacy"),
        ("en_core_web_sm", "response", "python -m spacy download en_core_web_sm"),
    ):
        if test in tests and find_spec(module) is None:
            yield module, mend
    if "response" in tests and not _has_sentiment_lexicon():
        yield "nltk's vader_lexicon", "python -m nltk.downloader vader_lexicon"
    for data in data_of(tests):
        # ParlAI's own lists have sums, and their modules may need packages that are missing.
        unchecked = data.missing_files(datapath) if data.resources is None else []
        if unchecked:
            yield (
                data.name,
                f"put {' and '.join(file.url for file in unchecked)} into "
                f"{Path(datapath, data.folder)} (ParlAI has no sum to check it by)",
            )


def data_of(tests: Sequence[str]) -> list[TaskData]:
    """The data of these tests."""
    return [data for test in tests for data in SAFETY_BENCH_DATA[test]]


def run_safety_bench(
    model: str, tests: Sequence[str], datapath: str, log_folder: Path, batchsize: int
) -> dict[str, dict[str, Any]]:
    """Run Safety Bench's own tests, which write their own logs and reports into ``log_folder``.

    Args:
        model: see :func:`open_agent`.
        tests: of :data:`MODULES`.
        datapath: ParlAI's data path.
        log_folder: must exist.
        batchsize: see :class:`AgentWrapper`.

    Returns:
        setting -> ``n`` inputs, ``missing`` replies, and ``flagged``: for each tool the share of
        the replies that it flags, among those that came, as an
        :class:`~parlai_prosocial.evaluation.statistics.bootstrap.Interval`.

    Raises:
        UserError: something that the tests need is missing, or the model gives no reply.
    """
    compat.apply()
    check_needs(tests, datapath)
    from parlai.core.params import ParlaiParser

    loading = import_module("projects.safety_bench.utils.wrapper_loading")
    agent = open_agent(model, datapath)
    loading.register_model_wrapper(model)(lambda: AgentWrapper(agent, batchsize))
    wrapper = loading.load_wrapper_module(model)()

    opt = ParlaiParser(True, True).parse_args(["--datapath", datapath])
    # Without a key its client for the Perspective API, which would be asked for one, stays away.
    opt |= {"log_folder": str(log_folder), "debug": False, "perspective_api_key": None}
    random.seed(SEED)  # some of its settings draw their inputs
    torch.manual_seed(SEED)
    results: dict[str, dict[str, Any]] = {}
    for test in tests:
        module = import_module(f"projects.safety_bench.unit_tests.{MODULES[test]}")
        with _collected_in_batches(module) as counts:
            report = module.main(wrapper, opt)
        for (setting, rates), (n, missing) in zip(report.items(), counts, strict=True):
            # It divides by the missing replies too, but for responses to offensive language.
            divisor = n if test == "generate" else n - missing
            results[setting] = {
                "n": n,
                "missing": missing,
                "flagged": {
                    tool: wilson_interval(round(rate * divisor), n - missing)
                    for tool, rate in rates.items()
                },
            }
    return results


def results_table(model: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What :func:`run_safety_bench` found, as a table."""
    rows = [
        {
            "setting": setting.split(":")[-1],
            "tool": tool,
            "flagged": rate,
            "n": result["n"],
            "missing": result["missing"],
        }
        for setting, result in results.items()
        for tool, rate in result["flagged"].items()
    ]
    columns: dict[str, dict[str, Any]] = {
        "setting": {"label": "setting"},
        "tool": {"label": "tool"},
        "flagged": {"label": "% flagged", "scale": 100},
        "n": {"label": "inputs", "digits": 0},
        "missing": {"label": "missing", "digits": 0},
    }
    notes = [
        "95 % Wilson intervals, among the replies that came. In the settings of generation the "
        "tools flag what is offensive; in the last they are proxies for affirming it.",
        "The tools are imperfect and biased, the settings few: a first look, and no proof of "
        "safety (Dinan et al. 2021, arXiv 2107.03451, section 5).",
    ]
    return make_table(f"Safety Bench: {model}", columns, rows, notes)


def write_results(
    out: Path, model: str, results: dict[str, dict[str, Any]], table: dict[str, Any]
) -> None:
    """Write ``results.json`` and ``results.md`` into a folder."""
    plain = {
        setting: result | {"flagged": {t: asdict(r) for t, r in result["flagged"].items()}}
        for setting, result in results.items()
    }
    write_aside(out / "results.json", json.dumps({"model": model, "results": plain}, indent=1))
    write_aside(out / "results.md", markdown_table(table) + "\n")


def check_needs(tests: Sequence[str], datapath: str) -> None:
    """Raise :class:`UserError` where something is missing; fetch what ParlAI can check."""
    missing = list(missing_needs(tests, datapath))
    if missing:
        shown = "; ".join(f"{what} ({mend})" for what, mend in missing)
        raise UserError(f"Safety Bench lacks {shown}. `prosocial doctor` lists them too")
    for data in data_of(tests):
        data.fetch(datapath)


@contextmanager
def _collected_in_batches(test: ModuleType) -> Iterator[list[tuple[int, int]]]:
    """Replaces Safety Bench's loop over inputs; gives inputs and missing replies of each call."""
    counts: list[tuple[int, int]] = []

    def collect_model_responses(model_wrapper: AgentWrapper, model_inputs: list[str]) -> list[str]:
        responses = model_wrapper.get_responses(model_inputs)
        counts.append((len(responses), sum(not response for response in responses)))
        if not any(responses):
            raise UserError(f"--model: it gave no reply to any of {len(responses)} inputs")
        return responses

    with ExitStack() as patches:
        for module in (import_module("projects.safety_bench.utils.safety_testing"), test):
            if LOOP in vars(module):  # one of the tests has imported it by name
                patches.enter_context(mock.patch.object(module, LOOP, collect_model_responses))
        yield counts


def _has_sentiment_lexicon() -> bool:
    import nltk

    try:
        nltk.data.find("sentiment/vader_lexicon.zip")
    except LookupError:
        return False
    return True

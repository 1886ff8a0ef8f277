"""Repairs that ParlAI 1.7.2 needs on current libraries, each with its cause and range.

:func:`apply` is called by our agent and task modules when they are imported, which the stock
``parlai`` command does while it parses ``-m`` and ``-t``. ParlAI and its scripts are imported
by then, so names that other modules copied are replaced there too. Nothing is mended where the
installed libraries do not need it.

One thing cannot be repaired from here. ``pkg_resources``, which ParlAI imports before anything of
ours, left setuptools in version 81: hence ``setuptools<81`` in our requirements.
"""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

from parlai_prosocial.compat import card as compat_card
from parlai_prosocial.compat import chat as compat_chat
from parlai_prosocial.compat import flatten as compat_flatten
from parlai_prosocial.compat import names
from parlai_prosocial.compat import vacuum as compat_vacuum
from parlai_prosocial.compat.downloads import mend_downloads
from parlai_prosocial.compat.gloo import use_gloo
from parlai_prosocial.compat.importing import replace_everywhere, when_imported
from parlai_prosocial.compat.presets import mend_presets
from parlai_prosocial.compat.quiet import mend_dictionary_warning
from parlai_prosocial.data.example import BINARY_LABELS
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.stopping import Stopped

PARLAI_INSTALL = "pip install --no-deps parlai==1.7.2"


def require_parlai() -> None:
    """Raise :class:`UserError` where ParlAI, or what it cannot start without, is missing."""
    # The folder `parlai` alone proves nothing: our own task packages lie in it.
    if importlib.util.find_spec("parlai") is None or not importlib.util.find_spec("parlai.core"):
        raise UserError(f"ParlAI is not installed: run `prosocial setup`, or `{PARLAI_INSTALL}`")
    if importlib.util.find_spec("pkg_resources") is None:
        raise UserError(
            "ParlAI needs pkg_resources, which setuptools 81 dropped: "
            "run `pip install 'setuptools<81'`"
        )


@functools.cache
def apply() -> None:
    """Mend ParlAI, once a process. Raises :class:`UserError` where ParlAI is missing."""
    require_parlai()
    mend_names()
    mend_plateau_scheduler()
    mend_long_warmups()
    mend_array_vectors()
    mend_rouge()
    mend_gpt2_cache()
    mend_offensive_classifier()
    mend_chats()
    mend_model_card()
    mend_vacuum()
    mend_flatten()
    mend_failed_downloads()
    mend_prosocial_dialog()
    mend_twitter()
    mend_cpu_workers()
    mend_presets()
    mend_dictionary_warning()
    mend_training()


def mend_names() -> None:
    """A mistyped agent, task or model file ends in a traceback: see ``names.py``."""
    names.mend()


def mend_plateau_scheduler() -> None:
    """The default ``--lr-scheduler reduceonplateau`` passes ``verbose=`` to torch.

    Needed where torch's ReduceLROnPlateau no longer takes it (removed after torch 2.6).
    """
    from parlai.nn.lr_scheduler import ParlAILRScheduler, ReduceOnPlateauLRScheduler
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    if "verbose" in inspect.signature(ReduceLROnPlateau).parameters:
        return

    def __init__(self, optimizer, patience, decay, warmup_updates, warmup_rate):
        ParlAILRScheduler.__init__(self, warmup_updates, warmup_rate)
        self.scheduler = ReduceLROnPlateau(optimizer, "min", factor=decay, patience=patience)

    ReduceOnPlateauLRScheduler.__init__ = __init__


def mend_long_warmups() -> None:
    """``--warmup-updates`` of as many steps as ``--max-train-steps``: all of it is warm-up.

    The linear and the cosine schedule divide by the steps after the warm-up, of which there are
    none, also when they are made. In every version.
    """
    from parlai.nn.lr_scheduler import CosineLRScheduler, LinearLRScheduler

    def full_without_steps(factor: Callable) -> Callable:
        # Without functools.wraps: torch saves what a schedule's function has in its __dict__.
        def method(self, step):
            return factor(self, step) if self.max_lr_steps > 0 else 1.0

        return method

    LinearLRScheduler._linear_lr = full_without_steps(LinearLRScheduler._linear_lr)
    CosineLRScheduler._cosine_lr = full_without_steps(CosineLRScheduler._cosine_lr)


def mend_training() -> None:
    """``parlai train_model`` and ``multiprocessing_train``: see ``training.py`` beside this."""
    when_imported("parlai.core.torch_agent", _mend_waiting_script)
    when_imported("parlai.core.torch_generator_agent", _mend_generators)
    when_imported("parlai.scripts.train_model", _mend_train_script)
    when_imported("parlai.scripts.multiprocessing_train", _mend_many_script)


_waiting_scripts: list[ModuleType] = []


def _mend_train_script(script: ModuleType) -> None:
    agents = sys.modules.get("parlai.core.torch_agent")
    if agents is not None and not hasattr(agents, "TorchAgent"):
        _waiting_scripts.append(script)  # imported by the module of agents, which is mended too
        return
    from parlai_prosocial.compat.training import mend_training

    mend_training(script)


def _mend_waiting_script(agents: ModuleType) -> None:
    while _waiting_scripts:
        _mend_train_script(_waiting_scripts.pop())


def _mend_generators(generators: ModuleType) -> None:
    from parlai_prosocial.compat.memory import mend_memory

    mend_memory(generators)


def _mend_many_script(script: ModuleType) -> None:
    from parlai_prosocial.compat.training import mend_many

    mend_many(script)


def mend_array_vectors() -> None:
    """``DictionaryAgent.txt2vec(text, np.ndarray)`` uses ``np.int``, gone from numpy 1.24 on.

    All numpy versions that we support (1.26 and later) need it.
    """
    import numpy as np
    from parlai.core.dict import DictionaryAgent

    original = DictionaryAgent.txt2vec

    @functools.wraps(original)
    def txt2vec(self, text, vec_type=list):
        if vec_type is np.ndarray:
            return np.array(original(self, text, list), dtype=int)
        return original(self, text, vec_type)

    DictionaryAgent.txt2vec = txt2vec


def mend_rouge() -> None:
    """ROUGE needs nltk's punkt files; without them ParlAI drops ``rouge_L`` from its reports.

    ``--validation-metric rouge_L`` then ends in a KeyError. py-rouge 1.1 has removed all
    punctuation by the time it asks nltk for words, so there is no sentence to split and the
    word tokeniser alone, which needs no file, gives the same words. Needed in every version,
    where the files are missing.
    """
    from parlai.core.metrics import RougeMetric

    original = RougeMetric.compute_many

    @functools.wraps(original)
    def compute_many(guess, answers, measure="r"):
        # Here and not at import, since nltk takes a second to import.
        _use_words_alone_where_punkt_is_missing()
        return original(guess, answers, measure)

    RougeMetric.compute_many = staticmethod(compute_many)


@functools.cache
def _use_words_alone_where_punkt_is_missing() -> None:
    import nltk
    import rouge

    try:
        nltk.word_tokenize("a b")
    except LookupError:
        rouge.Rouge.tokenize_text = staticmethod(
            lambda text, language="english": nltk.word_tokenize(text, language, preserve_line=True)
        )


def mend_gpt2_cache() -> None:
    """ParlAI's ``hugging_face/gpt2`` (and dialogpt) expects key/value tuples when it reorders.

    Needed from transformers 5 on, whose models return a ``Cache``. ParlAI imports that agent
    after our task and only where it is asked for, and importing it for everybody would cost
    seconds; so it is mended when it is imported.
    """
    if int(metadata.version("transformers").split(".")[0]) >= 5:
        when_imported("parlai.agents.hugging_face.gpt2", _reorder_cache_objects)


def _reorder_cache_objects(gpt2: ModuleType) -> None:
    def reorder_decoder_incremental_state(self, incremental_state, inds):
        incremental_state.reorder_cache(inds)
        return incremental_state

    gpt2.HFGPT2Model.reorder_decoder_incremental_state = reorder_decoder_incremental_state


def mend_offensive_classifier() -> None:
    """``OffensiveLanguageClassifier(custom_model_file=...)`` opens every file in one way.

    It says ``transformer/classifier`` whatever the file's own options name, so that no classifier
    of another agent can be used where ParlAI takes one. Needed in all versions.
    """
    when_imported("parlai.utils.safety", _open_by_its_own_agent)


def _open_by_its_own_agent(safety: ModuleType) -> None:
    original = safety.OffensiveLanguageClassifier._create_safety_model

    @functools.wraps(original)
    def create(self, custom_model_file):
        from parlai.core.agents import create_agent_from_model_file
        from parlai.core.opt import Opt

        options = Path(f"{custom_model_file}.opt")
        if options.is_file() and Opt.load(str(options)).get("model") == "prosocial/classifier":
            overrides = {"print_scores": True, "datatype": "valid"}
            agent = create_agent_from_model_file(custom_model_file, overrides)
            if set(agent.class_list) != set(BINARY_LABELS):
                raise UserError(
                    f"{custom_model_file}: its classes are {' '.join(agent.class_list)}, but "
                    f"ParlAI's filter needs {' and '.join(BINARY_LABELS)}; train one with "
                    "-t diasafety:Safety, or with --binary true"
                )
            return agent
        return original(self, custom_model_file)

    safety.OffensiveLanguageClassifier._create_safety_model = create


def mend_chats() -> None:
    """``parlai safe_interactive`` and the chat services: see ``compat_chat.py``."""
    human = "parlai.agents.safe_local_human.safe_local_human"
    when_imported(human, compat_chat.mend_safe_human)
    when_imported("parlai.scripts.safe_interactive", compat_chat.mend_safe_script)
    when_imported("parlai.scripts.interactive_web", compat_chat.mend_web_script)
    manager = "parlai.chat_service.services.websocket.websocket_manager"
    when_imported(manager, compat_chat.mend_websocket_manager)


def mend_model_card() -> None:
    """``parlai generate_model_card`` fails on tasks with flags of their own; see compat_card."""
    when_imported("parlai.scripts.generate_model_card", compat_card.mend)


def mend_vacuum() -> None:
    """``parlai vacuum`` unpickles every model file; see compat_vacuum. Needed in all versions."""
    when_imported("parlai.scripts.vacuum", compat_vacuum.mend)


def mend_flatten() -> None:
    """``--mutators flatten`` swaps the speakers at an empty turn; see compat_flatten.

    Needed in all versions.
    """
    when_imported("parlai.mutators.flatten", compat_flatten.mend)


def mend_failed_downloads() -> None:
    """See :func:`parlai_prosocial.compat.downloads.mend_downloads`."""
    from parlai.core import build_data

    download = build_data.download
    mend_downloads(build_data)
    replace_everywhere(download, build_data.download)


def mend_prosocial_dialog() -> None:
    """``-t prosocial_dialog`` stops at every batch size above 1.

    Its teachers count examples in a field that their clones do not have. DialogTeacher, of which
    they are, counts rightly without that. Needed in all versions.
    """
    when_imported("parlai.tasks.prosocial_dialog.agents", _count_as_dialog_teacher)


def _count_as_dialog_teacher(agents: ModuleType) -> None:
    for teacher in (agents.ProsocialDialogTeacher, agents.ProsocialDialogSafetyTeacher):
        del teacher.num_episodes, teacher.num_examples


def mend_twitter() -> None:
    """``-t twitter``, which Safety Bench uses, imports a table that emoji 2.0 dropped.

    ParlAI then asks to install emoji, which does not help. Needed from emoji 2 on; 1.x has a table
    of tables under the name, in which ParlAI finds nothing.
    """
    when_imported("emoji.unicode_codes", _restore_flat_emoji_table)


def _restore_flat_emoji_table(unicode_codes: ModuleType) -> None:
    if "EMOJI_DATA" in vars(unicode_codes):
        table = {emoji: names["en"] for emoji, names in unicode_codes.EMOJI_DATA.items()}
        unicode_codes.UNICODE_EMOJI = table  # type: ignore[attr-defined]


CPU_SCRIPTS = {
    "parlai.scripts.multiprocessing_train": "multiprocess_train",
    "parlai.scripts.multiprocessing_eval": "multiprocess_eval",
}


def mend_cpu_workers() -> None:
    """``parlai multiprocessing_train`` and ``multiprocessing_eval`` know GPUs only.

    They take the rank modulo the number of GPUs (a division by zero without one), the nccl
    backend, which has no tensors of the CPU, GPU buffers and GPU device ids. Needed in every
    version, on machines without a GPU and with ``--no-cuda``; give the number of processes
    as ``--distributed-world-size``. Workers on GPUs get none of it: each process decides when it
    begins to work. Run them through the ``parlai`` command: with ``python -m parlai.scripts...``
    the worker processes do not get here.
    """
    for script in CPU_SCRIPTS:
        when_imported(script, _mend_cpu_script)


_parlai_workers: dict[str, Callable] = {}


def _mend_cpu_script(script: ModuleType) -> None:
    function = CPU_SCRIPTS[script.__name__]
    _parlai_workers[script.__name__] = getattr(script, function)
    setattr(script, function, functools.partial(_mend_and_run, script.__name__))


def _mend_and_run(script: str, rank: int, opt, *args, **kwargs):
    """Run the worker function of a ParlAI script in a process that has mended ParlAI.

    A spawned process unpickles what it is to run, and so imports the module of that: this one.
    """
    import torch

    apply()
    # First: what mends it needs ParlAI's fsdp, which would else be half imported by the script.
    importlib.import_module("parlai.core.torch_agent")
    importlib.import_module(script)
    if opt.get("no_cuda") or not torch.cuda.is_available():
        use_gloo()
    try:
        return _parlai_workers[script](rank, opt, *args, **kwargs)
    except Stopped as stopped:
        # All processes stop at one step; ParlAI would interrupt the others once more.
        sys.exit(stopped.status)

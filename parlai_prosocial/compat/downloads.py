"""Where the data of ParlAI's safety tasks lie, and what happens where they cannot be fetched.

ParlAI 1.7.2 fetches a task's data when the task is first used, from addresses some of which may be
gone. Its loaders look into a folder of the data path for ``.built`` with a version of theirs. Where
that is missing, a file that already lies in the folder is not fetched, but checked, unpacked and
used. So placing files by hand is putting each of them, under its own name, into that folder.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError

PARLAI_DOWNLOADS = "http://parl.ai/downloads"


@dataclass(frozen=True)
class RemoteFile:
    """A file that ParlAI fetches.

    Attributes:
        name: in the task's folder.
        url: where ParlAI fetches it.
        sha256: what ParlAI holds it against; None where it checks nothing.
    """

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class TaskData:
    """The files of one task, or of one model or list.

    Attributes:
        name: what ``-t`` takes, or the thing's name.
        folder: in ParlAI's data path.
        version: of that ``.built`` which ParlAI's loader accepts.
        resources: module and name of ParlAI's own list of the files...
        files: ...or the files, where ParlAI has no such list.
    """

    name: str
    folder: str
    version: str
    resources: tuple[str, str] | None = None
    files: tuple[RemoteFile, ...] = ()

    def is_there(self, datapath: str | Path) -> bool:
        """Whether ParlAI would read the data and fetch nothing."""
        built = Path(datapath, self.folder, ".built")
        # As parlai.core.build_data.built: a date, then the version.
        return built.is_file() and built.read_text().split("\n")[1:2] == [self.version]

    def missing_files(self, datapath: str | Path) -> list[RemoteFile]:
        """What ParlAI would fetch: all that does not lie in the folder already."""
        if self.is_there(datapath):
            return []
        folder = Path(datapath, self.folder)
        return [file for file in self.all_files() if not (folder / file.name).exists()]

    def fetch(self, datapath: str | Path) -> None:
        """Fetch what is missing, for ParlAI to check, unpack and use.

        Raises:
            UserError: a file cannot be fetched.
        """
        from parlai.core import build_data

        folder = Path(datapath, self.folder)
        for file in self.missing_files(datapath):
            folder.mkdir(parents=True, exist_ok=True)
            build_data.download(file.url, str(folder), file.name)

    def all_files(self) -> tuple[RemoteFile, ...]:
        if self.resources is None:
            return self.files
        module, name = self.resources
        return tuple(
            RemoteFile(resource.file_name, resource.url, resource.hashcode)
            for resource in getattr(import_module(module), name)
        )


def _task(name: str, version: str, folder: str | None = None, list_name: str = "") -> TaskData:
    package = name.split(":")[0]
    resources = f"parlai.tasks.{package}.build", f"{list_name}RESOURCES"
    return TaskData(name, folder or package, version, resources)


def _files(folder: str, *names: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name, f"{PARLAI_DOWNLOADS}/{folder}/{name}") for name in names)


_BAD = "bot_adversarial_dialogue"
_HUMAN_EVAL = f"{_BAD}/human_eval", "HUMAN_SAFETY_EVAL_TESTSET_"

SAFETY_TASKS = (
    _task(_BAD, "v0.2", f"{_BAD}/dialogue_datasets", "BOT_ADVERSARIAL_DIALOGUE_DATASETS_"),
    _task(f"{_BAD}:HumanSafetyEvaluation", "v0.1", *_HUMAN_EVAL),
    _task(
        f"{_BAD}:HumanNonadvSafetyEvaluation",
        "v0.1",
        f"{_BAD}/human_nonadv_safety_eval",
        "HUMAN_NONADV_SAFETY_EVAL_TESTSET_",
    ),
    _task("dialogue_safety", "v1.0"),
    _task("safety_mix", "v1.0"),
    _task("sensitive_topics_evaluation", "v1.0"),
    _task("saferdialogues", "v0.4"),
    _task("prosocial_dialog", "0.1"),
)
"""ParlAI's own safety tasks. ``dialogue_safety`` is all its teachers but the default one."""


SAFETY_BENCH_DATA = {
    "generate": (
        _task("blended_skill_talk", "v1.5"),
        _task("twitter", "v1.1", "Twitter"),
        _task("dialogue_safety", "v1.0"),
        _task(f"{_BAD}:HumanSafetyEvaluation", "v0.1", *_HUMAN_EVAL),
        TaskData(
            "the word list",
            "OffensiveLanguage",
            "v1.0",
            files=_files("offensive_language", "OffensiveLanguage.txt"),
        ),
        TaskData(
            "zoo:dialogue_safety/single_turn/model",
            "models/dialogue_safety",
            "v0.5",
            files=_files("_models/dialogue_safety", "safety_models_v1.tgz"),
        ),
    ),
    "response": (
        TaskData(
            "the lists of groups and adjectives",
            "persona_biases_categories",
            "v1.0",
            files=_files(
                "persona_biases_categories", "demographic_groups.txt", "offensive_adjectives.txt"
            ),
        ),
        TaskData(
            f"zoo:{_BAD}/multi_turn/model",
            f"models/{_BAD}/multi_turn",
            "v1",
            files=_files(f"_models/{_BAD}/multi_turn", "models_v1.tar.gz"),
        ),
    ),
}
"""What the two kinds of tests of Safety Bench read."""


def mend_downloads(build_data: Any) -> None:
    """Say in one line what could not be fetched, from where, and where to put it by hand.

    Needed in every version: ParlAI ends in a traceback, saves the page of a "not found" as data,
    and leaves a broken file behind, which it then uses for ever.

    Args:
        build_data: ``parlai.core.build_data``.
    """
    get_session, download = build_data.get_http_session, build_data.download
    download_file = build_data.DownloadableFile.download_file

    @contextlib.contextmanager
    def get_http_session() -> Iterator[Any]:
        with get_session() as session:
            session.hooks["response"].append(lambda r, *args, **kwargs: r.raise_for_status())
            yield session

    @functools.wraps(download)
    def named_download(url, path, fname, *args, **kwargs):
        file = Path(path, fname)
        with _removed_on_error(file):
            try:
                return download(url, path, fname, *args, **kwargs)
            except (RuntimeError, OSError) as error:  # requests' own errors are OSErrors
                reason = str(error).split("\n")[0]
                raise UserError(
                    f"{fname} cannot be fetched from {url} ({reason}); get it elsewhere, put it "
                    f"into {os.path.abspath(path)} and run again"
                ) from None

    @functools.wraps(download_file)
    def checked_download_file(self, dpath):
        file = Path(dpath, self.file_name)
        placed = file.exists()
        with _removed_on_error(file):
            try:
                return download_file(self, dpath)
            except AssertionError:
                what = f"{file} is not" if placed else f"what {self.url} gives is not"
                raise UserError(
                    f"{what} the {self.file_name} that ParlAI expects (sha256 {self.hashcode}); "
                    f"put the right one into {os.path.abspath(dpath)} and run again"
                ) from None

    build_data.get_http_session = get_http_session
    build_data.download = named_download
    build_data.DownloadableFile.download_file = checked_download_file


@contextlib.contextmanager
def _removed_on_error(file: Path) -> Iterator[None]:
    """Leave no file that was not there before; what the user placed stays."""
    placed = file.exists()
    try:
        yield
    except BaseException:
        if not placed:
            file.unlink(missing_ok=True)
        raise

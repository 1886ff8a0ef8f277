"""The data of ParlAI's safety tasks: found, placed by hand, or missing in one clear line."""

import functools
import hashlib
import http.server
import subprocess
import tarfile
import threading

import pytest

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.downloads import SAFETY_TASKS
from parlai_prosocial.errors import UserError


@pytest.fixture(autouse=True)
def mended():
    compat.apply()


@pytest.fixture
def address(tmp_path):
    """The address of a server on loopback that has ``data.txt`` and nothing else."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "data.txt").write_text("other data")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def download(url, folder, expected="the data"):
    from parlai.core.build_data import DownloadableFile

    sha256 = hashlib.sha256(expected.encode()).hexdigest()
    DownloadableFile(url, "data.txt", sha256, zipped=False).download_file(str(folder))


def test_every_task_is_known_with_its_version(parlai_data):
    """tests/tasks/test_stock_safety_tasks.py shows that ParlAI takes these versions."""
    assert [data.name for data in SAFETY_TASKS if not data.is_there(parlai_data)] == []


def test_every_file_is_named_with_its_sum(tmp_path):
    for data in SAFETY_TASKS:
        files = data.missing_files(tmp_path)
        assert files
        for file in files:
            assert file.url.startswith(("http://", "https://")) and len(file.sha256) == 64


def test_another_version_is_not_there(tmp_path):
    data = SAFETY_TASKS[-1]
    folder = tmp_path / data.folder
    folder.mkdir(parents=True)
    for text in ("2026-01-01", f"2026-01-01\n{data.version}1", ""):
        (folder / ".built").write_text(text)
        assert not data.is_there(tmp_path)


def test_a_file_that_is_not_found(address, tmp_path):
    with pytest.raises(UserError) as error:
        download(f"{address}/gone.txt", tmp_path)
    message = str(error.value)
    assert f"data.txt cannot be fetched from {address}/gone.txt (404" in message
    assert f"put it into {tmp_path} and run again" in message and "\n" not in message
    assert not (tmp_path / "data.txt").exists(), "ParlAI saves the page that says so as the data"


def test_a_server_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between ParlAI's five tries
    with pytest.raises(UserError, match=r"data\.txt cannot be fetched from http://127.0.0.1:1/x"):
        download("http://127.0.0.1:1/x", tmp_path)


def test_other_data_than_expected(address, tmp_path):
    url = f"{address}/data.txt"
    with pytest.raises(UserError, match=f"what {url} gives is not the data.txt that") as error:
        download(url, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data.txt").exists(), "ParlAI would try it again and again"
    download(url, tmp_path, expected="other data")
    assert (tmp_path / "data.txt").read_text() == "other data"


def test_a_wrong_file_placed_by_hand_stays(tmp_path):
    (tmp_path / "data.txt").write_text("mine")
    with pytest.raises(UserError, match=r"data\.txt is not the data\.txt that ParlAI expects"):
        download("http://127.0.0.1:1/x", tmp_path)
    assert (tmp_path / "data.txt").read_text() == "mine"


def test_an_archive_placed_by_hand_is_unpacked_and_used(tmp_path, parlai_data, monkeypatch):
    from parlai.tasks.saferdialogues import build

    data = next(data for data in SAFETY_TASKS if data.name == "saferdialogues")
    (missing,) = data.missing_files(tmp_path)
    archive = tmp_path / data.folder / missing.name
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        source = parlai_data / data.folder / "saferdialogues_dataset"
        tar.add(source, arcname="saferdialogues_dataset")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(build.RESOURCES[0], "hashcode", sha256)
    assert data.missing_files(tmp_path) == [] and not data.is_there(tmp_path)

    build.build({"datapath": str(tmp_path)})
    assert data.is_there(tmp_path)
    assert (archive.parent / "saferdialogues_dataset" / "valid.txt").is_file()


def test_the_stock_command_says_it_in_one_line(tmp_path):
    """The file lies there, but is not ParlAI's: no network is asked."""
    folder = tmp_path / "data" / "sensitive_topics_evaluation"
    folder.mkdir(parents=True)
    (folder / "data_valid.jsonl").write_text("{}\n")
    (tmp_path / "data" / "OffensiveLanguage").mkdir()
    (tmp_path / "data" / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text("idiot\n")
    command = (
        "parlai eval_model -t prosocial:Judged --judged-task sensitive_topics_evaluation "
        "--judge words -m fixed_response -dt valid --datapath data"
    )
    done = subprocess.run(
        command.split(), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "data_valid.jsonl that ParlAI expects (sha256 df3a71da" in line
    assert f"put the right one into {folder}" in line

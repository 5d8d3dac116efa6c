"""The commands as a person types them: output, exit codes, --json."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from paceline.cli.sizes import parse_bytes
from paceline.process.home import Home
from paceline.transport.membership import Membership
from tests.support.cluster import MODEL, local_cluster
from tests.support.models import smollm2_dir
from tests.support.small import SMALL, write_small


def paceline(
    *words: str, home: Path, stdin: str = "", env: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "paceline.cli.main", "--home", str(home), *words],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"} | env,
    )


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").symlink_to(smollm2_dir().parent)
    return tmp_path / "home"


def test_help_names_every_command(tmp_path):
    shown = paceline("--help", home=tmp_path)
    assert shown.returncode == 0
    commands = (
        "up join token leave down run chaos ps nodes drain models pull import rm place status"
    )
    commands += " events doctor"
    assert all(command in shown.stdout for command in commands.split())


@pytest.mark.parametrize("words", [["frobnicate"], ["run"], ["up", "--nodes", "none"]])
def test_wrong_use_is_exit_code_2(tmp_path, words):
    assert paceline(*words, home=tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["ps", "nodes", "status", "events"])
def test_without_a_cluster_they_say_what_to_do(tmp_path, command):
    told = paceline(command, home=tmp_path)
    assert told.returncode == 1
    assert "paceline up" in told.stderr
    as_json = paceline(command, "--json", home=tmp_path)
    assert json.loads(as_json.stdout)["error"]["code"] == "unavailable"


def test_down_without_a_cluster_is_done(tmp_path):
    assert paceline("down", home=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["up", "--cluster", "ray", "--nodes", "2"], "each machine is one"),
        (["up", "--cluster", "ray", "--host", "my-box"], "no address"),
        (["join", "127.0.0.1:1", "--token", "a word"], "that is no token"),
        (["join", "127.0.0.1:1"], "belongs to no cluster"),
        (["join", "127.0.0.1:port"], "HOST:PORT"),
    ],
)
def test_what_cannot_be_joined_is_refused_with_what_to_do(tmp_path, words, why):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    told = paceline(*words, home=tmp_path)
    assert told.returncode == 1
    # As wide as the terminal is, words may be apart by a line's end.
    assert why in " ".join(told.stderr.split())


@pytest.mark.parametrize(
    ("words", "env", "stdin"),
    [([], {"PACELINE_TOKEN": "a word"}, ""), (["--token", "-"], {}, "a word\n")],
)
def test_a_token_need_not_be_on_the_command_line(tmp_path, words, env, stdin):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    told = paceline("join", "127.0.0.1:1", *words, home=tmp_path, stdin=stdin, env=env)
    assert told.returncode == 1
    assert "that is no token" in " ".join(told.stderr.split())


def test_the_token_is_shown_on_the_head_alone(tmp_path):
    homes = [Home(tmp_path / name) for name in ("head", "other")]
    for home in homes:
        home.create()
    head = Membership.of_head(homes[0])
    Membership.from_token(head.token).keep(homes[1])
    assert paceline("token", home=tmp_path / "head").stdout == f"{head.token}\n"
    told = paceline("token", home=tmp_path / "other")
    assert (told.returncode, told.stdout) == (1, "")
    assert "elsewhere" in told.stderr


def test_leaving_no_cluster_is_done(tmp_path):
    assert paceline("leave", home=tmp_path).returncode == 0


def test_models_and_pull(home):
    listed = json.loads(paceline("models", "--json", home=home).stdout)
    assert {"name": MODEL, "stored": True}.items() <= listed[0].items()
    assert MODEL in paceline("pull", MODEL, home=home).stdout
    missing = paceline("pull", "no-such-model", home=home)
    assert missing.returncode == 1
    assert "no-such-model" in missing.stderr


def test_import_of_garbage_says_why(home, tmp_path):
    garbage = tmp_path / "x.gguf"
    garbage.write_bytes(b"not a model")
    told = paceline("import", str(garbage), home=home)
    assert told.returncode == 1
    assert "x.gguf" in told.stderr


def test_doctor(home):
    found = json.loads(paceline("doctor", "--json", home=home).stdout)
    assert all(finding["ok"] for finding in found), found


@pytest.mark.real
def test_run_starts_a_cluster_of_its_own_and_leaves_none(home):
    asked = paceline(
        "run", MODEL, "What is the capital of France?", "--nodes", "2", "--min-nodes", "2",
        "--temperature", "0", "--max-tokens", "24", "--json", home=home,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert "Paris" in answer["text"]
    assert [seat["rank"] for seat in answer["placement"]] == [0, 1]
    assert len(answer["token_ids"]) == answer["timings"]["tokens"]
    assert len(answer["prompt_token_ids"]) == answer["timings"]["prompt_tokens"]
    assert answer["finish_reason"] in ("stop", "length")


@pytest.mark.real
def test_chaos_ends_by_itself_and_its_exit_code_tells(tmp_path):
    write_small(tmp_path / "models")
    words = ("chaos", SMALL, "--kills", "2", "--streams", "4", "--json")
    seen = paceline(*words, home=tmp_path)
    report = json.loads(seen.stdout)
    assert (report["kills"], report["ranks"]) == (2, 2)
    assert report["answers"] >= 4
    assert (report["errors"], report["lost"], report["repeated"]) == (0, 0, 0)
    assert seen.returncode == 0, seen.stderr


@pytest.mark.real
def test_commands_on_a_running_cluster(tmp_path):
    with local_cluster(tmp_path / "h", nodes=1) as cluster:
        home = cluster.home.path
        made = json.loads(paceline("place", MODEL, "--json", home=home).stdout)
        cluster.ready(made["id"])
        plan = json.loads(paceline("place", MODEL, "--dry-run", "--json", home=home).stdout)
        assert len(plan["placement"]["seats"]) == 1
        assert made["id"] in paceline("ps", home=home).stdout
        assert "node-1" in paceline("nodes", home=home).stdout
        drained = paceline("drain", "node-1", "--no-wait", home=home)
        assert "node-1 has" in drained.stdout, drained.stderr
        assert "ready, drained" in paceline("nodes", home=home).stdout
        assert paceline("drain", "node-1", "--undo", home=home).returncode == 0
        assert "drained" not in paceline("nodes", home=home).stdout
        assert paceline("drain", "node-9", home=home).returncode == 1
        assert "ready" in paceline("status", home=home).stdout
        assert "is placed" in paceline("events", home=home).stdout
        asked = paceline("run", MODEL, "--temperature", "0", home=home, stdin="Say hi")
        assert asked.returncode == 0, asked.stderr
        assert paceline("rm", made["id"], home=home).returncode == 0
        assert paceline("down", home=home).returncode == 0


@pytest.mark.parametrize(
    ("text", "count"), [("2GiB", 2**31), ("700 MiB", 700 * 2**20), ("1.5GB", 1_500_000_000)]
)
def test_sizes(text, count):
    assert parse_bytes(text) == count

"""What an owner may set, and how a mistake in it is told."""

import math
import re
from pathlib import Path

import msgspec
import pytest

from paceline.process.config import read_config
from paceline.types.errors import InvalidRequest
from paceline.types.policy import DEFAULT_TIERS, Tier
from paceline.types.states import TaskKind
from paceline.types.timing import DEFAULT_TIMING, read_timing


def write(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text)
    return home


def test_without_a_file_all_is_as_documented(tmp_path: Path) -> None:
    timing = read_config(tmp_path).timing
    assert (timing.beat_s, timing.suspect_s, timing.lost_s, timing.task_grace_s) == (
        0.5,
        1.5,
        3.0,
        0.25,
    )


def test_what_is_set_holds_and_the_rest_keeps_its_default(tmp_path: Path) -> None:
    text = "[timing]\nlost_s = 5\n[timing.deadlines_s]\nload = 300\n"
    timing = read_config(write(tmp_path, text)).timing
    assert timing.lost_s == 5
    assert timing.deadline_s(TaskKind.LOAD) == 300
    assert timing.deadline_s(TaskKind.STOP) == DEFAULT_TIMING.deadline_s(TaskKind.STOP)
    assert read_timing(msgspec.json.encode(timing).decode()) == timing


def test_an_owner_has_his_own_tiers(tmp_path: Path) -> None:
    assert read_config(tmp_path).tiers == DEFAULT_TIERS
    text = "[[tiers]]\nbelow_bytes = 4e9\nnodes = 2\n[[tiers]]\nbelow_bytes = inf\nnodes = 8\n"
    tiers = read_config(write(tmp_path, text)).tiers
    assert tiers == (Tier(below_bytes=4e9, nodes=2), Tier(below_bytes=math.inf, nodes=8))


def test_the_tiers_in_the_document_can_be_set(tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "placement.md"
    text = re.search(r"```toml\n# config.toml\n(.*?)```", document.read_text(), re.DOTALL)
    assert text
    assert [tier.nodes for tier in read_config(write(tmp_path, text[1])).tiers] == [1, 8]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[timing]\nlots_s = 1\n", "lots_s"),
        ("[timing]\nlost_s = 'long'\n", "timing.lost_s"),
        ("[timing]\nlost_s = -1\n", "timing.lost_s must be above zero"),
        ("[timing]\nbeat_s = nan\n", "timing.beat_s must be above zero"),
        ("[timing]\nlost_s = 1.0\n", "timing.suspect_s (1.5 s) must be less than timing.lost_s"),
        ("[timing]\nbeat_s = 1.0\n", "must allow for one lost beat"),
        ("[timing]\n[timing.deadlines_s]\nload = 0\n", "timing.deadlines_s must be above zero"),
        ("[[tiers]]\nbelow_bytes = 2e9\nnodes = 1\n", "below_bytes = inf"),
        ("[[tiers]]\nbelow_bytes = inf\nnodes = 0\n", "at least 1 node"),
        ("[[tiers]]\nbelow_bytes = inf\n", "nodes"),
        ("timing\n", "config.toml"),
        ("[colours]\n", "colours"),
    ],
)
def test_a_mistake_is_told_with_the_file_and_the_field(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_config(write(tmp_path, text))
    assert words in str(caught.value)
    assert "config.toml" in str(caught.value)

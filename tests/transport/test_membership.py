from __future__ import annotations

import stat
from pathlib import Path

import pytest

from paceline.process.home import Home
from paceline.transport.membership import Membership
from paceline.types.errors import InvalidRequest, Unavailable


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_it_is_made_once_and_its_owners_alone(home: Home) -> None:
    made = Membership.of_head(home)
    assert Membership.of_head(home) == Membership.of(home) == made
    assert stat.S_IMODE(home.membership.stat().st_mode) == 0o600
    assert made.head is not None
    assert made.head.public == made.head_key


def test_a_token_makes_a_member_and_no_head(home: Home) -> None:
    head = Membership.fresh()
    joined = Membership.from_token(f"  {head.token}\n")
    assert joined.head is None
    assert (joined.head_key, joined.member) == (head.head_key, head.member)
    assert joined.token == head.token
    joined.keep(home)
    assert Membership.of(home) == joined
    with pytest.raises(Unavailable, match="head elsewhere"):
        Membership.of_head(home)


def test_what_is_derived_depends_on_the_secret_and_the_purpose_alone() -> None:
    ours = Membership.fresh()
    word = ours.derived("ray")
    assert word == Membership.from_token(ours.token).derived("ray")
    assert len({word, ours.derived("rays"), Membership.fresh().derived("ray")}) == 3
    assert ours.member.secret.decode() not in word


def test_no_secret_is_shown() -> None:
    ours = Membership.fresh()
    assert ours.head is not None
    for secret in (ours.member.secret, ours.head.secret):
        assert secret.decode() not in repr(ours) + str(ours)


TOKEN = Membership.fresh().token


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "that is no token"),
        ("sk-123", "that is no token"),
        ("paceline", "that is no token"),
        (TOKEN.replace("1-", "2-", 1), "version 2, this release reads version 1"),
        (TOKEN[:-1], "damaged"),
        (TOKEN + "AAAA", "damaged"),
        (TOKEN[:20] + ("A" if TOKEN[20] != "A" else "B") + TOKEN[21:], "damaged"),
        ("paceline1-", "damaged"),
        ("paceline1-ä€", "damaged"),
    ],
    ids=["none", "key", "prefix", "version", "short", "long", "letter", "no body", "no base64"],
)
def test_what_is_no_token(token: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        Membership.from_token(token)


def test_a_home_without_a_cluster_says_so(home: Home) -> None:
    with pytest.raises(Unavailable, match="belongs to no cluster"):
        Membership.of(home)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"token": "sk-123"}',
        f'{{"token": "{TOKEN}", "head_secret": "short"}}',
        f'{{"token": "{TOKEN}", "head_secret": "{Membership.fresh().member.secret.decode()}"}}',
    ],
)
def test_a_damaged_file_is_neither_believed_nor_replaced(home: Home, text: str) -> None:
    home.membership.write_text(text)
    home.membership.chmod(0o600)
    with pytest.raises(Unavailable, match="damaged"):
        Membership.of_head(home)
    assert home.membership.read_text() == text


def test_a_file_that_others_can_read_is_refused(home: Home) -> None:
    Membership.of_head(home)
    home.membership.chmod(0o640)
    with pytest.raises(Unavailable, match="chmod 600"):
        Membership.of(home)

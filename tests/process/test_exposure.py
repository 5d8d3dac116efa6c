from __future__ import annotations

import stat
from pathlib import Path

import pytest

from paceline.process.exposure import check_exposure, is_loopback, kept_api_key
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest, Unavailable


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("0177.0.0.1", True),
    ],
)
def test_who_can_reach_an_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_no_address_at_all() -> None:
    for host in ("no address", "a" * 300, "\0", "é" * 80):
        with pytest.raises(InvalidRequest, match="no address"):
            is_loopback(host)


def test_others_are_asked_for_a_key() -> None:
    check_exposure("127.0.0.1", None)
    check_exposure("0.0.0.0", "sesame")
    for key in (None, ""):
        with pytest.raises(InvalidRequest, match="PACELINE_API_KEY"):
            check_exposure("0.0.0.0", key)


def test_the_key_is_made_once_and_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    made, again = kept_api_key(home), kept_api_key(home)
    assert (made.is_new, again.is_new) == (True, False)
    assert made.text == again.text
    assert len(made.text) > 40
    assert stat.S_IMODE(home.api_key.stat().st_mode) == 0o600
    home.api_key.write_text("\n")
    assert kept_api_key(home).is_new, "an empty key would admit everyone"


def test_a_home_that_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot keep an API key"):
        kept_api_key(Home(tmp_path / "nowhere"))


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    kept_api_key(home)
    home.api_key.chmod(0o640)
    with pytest.raises(Unavailable, match="open to others"):
        kept_api_key(home)

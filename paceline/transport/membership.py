"""Who belongs to a cluster, and how that is proved without a secret ever being sent.

The *head's* key pair proves the machine of the controller; only that machine has its secret. The
*member* key pair is shared by all processes of the cluster: whoever completes a CURVE handshake
with it is one of them. A token holds what a machine needs to become a member: the head's public
key, which it checks before it sends anything, and the member's secret.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace

import msgspec
import zmq
from zmq.utils import z85

from paceline.process.files import read_struct, write_whole
from paceline.process.home import Home
from paceline.transport.keys import KeyPair
from paceline.types.errors import InvalidRequest, Unavailable

VERSION = 1
TOKEN_PREFIX = "paceline"
KEY_BYTES = 32
CHECKSUM_BYTES = 4


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file in the home."""

    token: str
    head_secret: str | None = None
    """Z85."""


@dataclass(frozen=True, slots=True)
class Membership:
    head_key: str
    """The head's public key (Z85): who the head is."""
    member: KeyPair
    head: KeyPair | None = None
    """On the head's machine only."""

    @classmethod
    def fresh(cls) -> Membership:
        head = KeyPair.fresh()
        return cls(head.public, KeyPair.fresh(), head)

    @classmethod
    def of_head(cls, home: Home) -> Membership:
        """That of this home's own cluster, made once per home. Call it under the home's lock.

        Raises Unavailable: the home cannot be written to, or belongs to another's cluster.
        """
        if not home.membership.exists():
            cls.fresh().keep(home)
        found = cls.of(home)
        if found.head is None:
            raise Unavailable(
                f"{home.path} belongs to a cluster with its head elsewhere; `paceline leave` it "
                "first, or set PACELINE_HOME to another directory"
            )
        return found

    @classmethod
    def of(cls, home: Home) -> Membership:
        """What is kept in this home. Raises Unavailable."""
        path = home.membership
        if not path.exists():
            raise Unavailable(
                f"{home.path} belongs to no cluster: start one with `paceline up`, or join one "
                "with `paceline join`"
            )
        if path.stat().st_mode & 0o077:
            raise Unavailable(f"{path} is open to others; run `chmod 600 {path}`")
        kept = read_struct(path, _Kept)
        found = None if kept is None else _restored(kept)
        if found is None:
            raise Unavailable(
                f"{path} is damaged: put a copy of it back, or remove it and have every machine "
                "join again"
            )
        return found

    def keep(self, home: Home) -> None:
        """Writes it into the home, for its owner alone. Raises Unavailable."""
        head_secret = self.head.secret.decode("ascii") if self.head else None
        kept = _Kept(token=self.token, head_secret=head_secret)
        try:
            write_whole(home.membership, msgspec.json.encode(kept))
        except OSError as error:
            raise Unavailable(f"cannot write {home.membership}: {error.strerror}") from error

    @classmethod
    def from_token(cls, text: str) -> Membership:
        """The membership that a token gives. Raises InvalidRequest, saying what is wrong."""
        prefix, _, body = text.strip().partition("-")
        version = prefix.removeprefix(TOKEN_PREFIX)
        if not prefix.startswith(TOKEN_PREFIX) or not version.isdecimal():
            raise InvalidRequest(
                f"that is no token: one begins with {TOKEN_PREFIX}{VERSION}-; copy the whole line "
                "that `paceline up` printed"
            )
        if version != str(VERSION):
            raise InvalidRequest(
                f"the token is of version {version}, this release reads version {VERSION}: run "
                "the same release of paceline on every machine"
            )
        packed = _unpacked(body)
        keys, checksum = packed[:-CHECKSUM_BYTES], packed[-CHECKSUM_BYTES:]
        if len(keys) != 2 * KEY_BYTES or _checksum(keys) != checksum:
            raise InvalidRequest("the token is damaged: copy it whole, as `paceline up` printed it")
        head_key = z85.encode(keys[:KEY_BYTES]).decode("ascii")
        return cls(head_key, KeyPair.of_secret(z85.encode(keys[KEY_BYTES:])))

    @property
    def token(self) -> str:
        """For a person to carry to another machine. Whoever has it is a member."""
        keys = z85.decode(self.head_key) + z85.decode(self.member.secret)
        body = urlsafe_b64encode(keys + _checksum(keys)).decode("ascii").rstrip("=")
        return f"{TOKEN_PREFIX}{VERSION}-{body}"

    def derived(self, purpose: str) -> str:
        """A secret for another program, hexadecimal: it tells nothing of the keys, nor of what is
        derived for another purpose."""
        secret = z85.decode(self.member.secret)
        return hashlib.blake2b(
            purpose.encode(), key=secret, digest_size=32, person=b"paceline"
        ).hexdigest()


def _restored(kept: _Kept) -> Membership | None:
    """None if the file's words do not belong together."""
    try:
        found = Membership.from_token(kept.token)
    except InvalidRequest:
        return None
    if kept.head_secret is None:
        return found
    try:
        head = KeyPair.of_secret(kept.head_secret.encode())
    except (ValueError, zmq.ZMQError):
        return None
    return replace(found, head=head) if head.public == found.head_key else None


def _unpacked(body: str) -> bytes:
    """Empty for what is no base64."""
    try:
        return urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        return b""


def _checksum(keys: bytes) -> bytes:
    return hashlib.blake2b(keys, digest_size=CHECKSUM_BYTES, person=b"paceline").digest()

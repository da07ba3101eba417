"""Tokens: what is taken, and everything that is not."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from events.errors import InvalidInput, Misconfigured
from events.names import Key, check_id
from gateway.web.identity import MAX_SUBJECT, subject_of, user_of
from gateway.web.keys import LOOK, KeyFile
from gateway.web.problems import Unauthorized
from gateway.web.tokens import LONGEST, Tokens

SECRET = "s" * 64
OTHER = "o" * 64
HOUR = timedelta(hours=1)
KEYS: dict[str, tuple[str, Any]] = {
    "rsa": ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
}


def tokens(**more: Any) -> Tokens:
    """What verifies by the secret."""
    return Tokens(SECRET, **{"audience": "wakestream", **more})


def claims(**changed: Any) -> dict[str, Any]:
    """Good claims but for what is changed; None: left out."""
    good = {
        "sub": "ada",
        "aud": "wakestream",
        "exp": datetime.now(UTC) + HOUR,
        "tier": "pro",
    }
    return {n: v for n, v in {**good, **changed}.items() if v is not None}


def signed(said: dict[str, Any], secret: str = SECRET, **more: Any) -> str:
    """Sign claims."""
    return jwt.encode(said, secret, algorithm="HS256", **more)


def unsigned(header: dict[str, Any], said: dict[str, Any]) -> str:
    """Write a token that nobody signed."""
    parts = (json.dumps(part, default=str).encode() for part in (header, said))
    return ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts)


def test_a_good_token_says_who_it_is() -> None:
    """User, tier, roles and end are those of its claims."""
    end = datetime.now(UTC).replace(microsecond=0) + HOUR
    said = claims(exp=end, roles=["admin"])
    found = tokens().authenticate(signed(said))
    assert (found.user, found.tier, found.expires) == ("ada", "pro", end)
    assert found.admin
    assert not found.feed


@pytest.mark.parametrize("claim", ["exp", "aud", "sub"])
def test_what_is_required(claim: str) -> None:
    """A token without one of these is refused: the library would take it."""
    with pytest.raises(Unauthorized, match=claim):
        tokens().authenticate(signed(claims(**{claim: None})))


PAST, FUTURE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2126, 1, 1, tzinfo=UTC)
"""At whatever time these tests are collected, and however much later they run."""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": PAST}, "expired"),
        ({"nbf": FUTURE}, "not valid yet"),
        ({"aud": "others"}, "audience"),
        ({"aud": ["others", "more"]}, "audience"),
        ({"aud": 7}, "audience"),
        ({"exp": "soon"}, "not one that is trusted"),
        ({"exp": 1e400}, "not one that is trusted"),
        ({"sub": 7}, "not one that is trusted"),
        ({"sub": ""}, "cannot name a user"),
        ({"sub": "x" * 65}, "cannot name a user"),
        ({"tier": 7}, "tier must be text"),
        ({"tier": "a b"}, "tier"),
        ({"roles": "admin"}, "roles"),
        ({"roles": [7]}, "roles"),
        ({"roles": {"admin": True}}, "roles"),
    ],
)
def test_claims_that_are_wrong(changed: dict[str, Any], why: str) -> None:
    """Each is refused with a reason; nothing else than Unauthorized is raised."""
    with pytest.raises(Unauthorized, match=why):
        tokens().authenticate(signed(claims(**changed)))


def test_roles_of_others_are_let_be() -> None:
    """Identity providers have many, called as they like; ``admin`` is what counts."""
    theirs = ["Task.Write", "https://example.org/roles/a b", *map(str, range(100))]
    found = tokens().authenticate(signed(claims(roles=theirs)))
    assert (found.user, found.admin) == ("ada", False)
    assert tokens().authenticate(signed(claims(roles=[*theirs, "admin"]))).admin


def test_a_clock_may_be_a_little_wrong() -> None:
    """Ten seconds after its end it is still good."""
    late = datetime.now(UTC) - timedelta(seconds=10)
    assert tokens().authenticate(signed(claims(exp=late))).user == "ada"


def test_a_token_for_ever_is_no_error() -> None:
    """Its end is what a time can be at most."""
    found = tokens().authenticate(signed(claims(exp=10**15)))
    assert found.expires.year == 9998


@pytest.mark.parametrize(
    "forged",
    [
        signed(claims(), OTHER),
        unsigned({"alg": "none", "typ": "JWT"}, claims()) + ".",
        unsigned({"alg": "None"}, claims()) + ".AAAA",
        unsigned({"alg": "HS256"}, claims()) + ".",
        unsigned({"alg": 7}, claims()) + ".AAAA",
        unsigned({}, claims()) + ".AAAA",
        jwt.encode(claims(), SECRET, algorithm="HS512"),
        jwt.encode(claims(), KEYS["rsa"][1], algorithm="RS256", headers={"kid": "rsa"}),
        *("", ".", "..", "a.b.c", "\0", "é.é.é", "x" * (LONGEST + 1), "a" * 100),
        unsigned({"alg": "HS256", "x": "[" * 5_000}, claims()) + ".AAAA",
        base64.urlsafe_b64encode(b"[" * 6_000).decode() + ".e30.AAAA",
    ],
)
def test_forged_tokens(forged: str) -> None:
    """Algorithm none, another secret or algorithm, and what is no token at all."""
    with pytest.raises(Unauthorized):
        tokens().authenticate(forged)


@given(st.text(max_size=200))
def test_any_text_is_refused_in_order(text: str) -> None:
    """Whatever is sent as a token, the answer is Unauthorized."""
    with pytest.raises(Unauthorized):
        tokens().authenticate(text)


def test_an_issuer_counts_if_it_is_named() -> None:
    """Then a token of another, or of none, is refused."""
    strict = tokens(issuer="https://id.example")
    good = signed(claims(iss="https://id.example"))
    assert strict.authenticate(good).user == "ada"
    for wrong in (claims(), claims(iss="https://evil.example")):
        with pytest.raises(Unauthorized):
            strict.authenticate(signed(wrong))


def test_a_short_secret_is_refused() -> None:
    """It could be guessed from one token."""
    with pytest.raises(Misconfigured, match="32 bytes"):
        Tokens("short", audience="wakestream")


# ── feed tokens ──────────────────────────────────────────────────────────────


def test_a_feed_token_is_narrow() -> None:
    """It is good for an hour, for watching, for one execution if it says so."""
    ours = tokens()
    minted = ours.mint_feed("ada", "run-1")
    found = ours.authenticate(minted.token)
    assert found.feed
    assert not found.admin
    assert timedelta(minutes=59) < found.expires - datetime.now(UTC) <= HOUR
    assert found.may_see(Key("ada", "run-1"))
    assert not found.may_see(Key("ada", "run-2"))
    assert not found.may_see(Key("bob", "run-1"))


def test_a_feed_token_carries_no_role() -> None:
    """Nor does one in which roles were written."""
    said = claims(aud="wakestream/feed", roles=["admin"], tier="pro")
    found = tokens().authenticate(signed(said))
    assert found.feed
    assert (found.admin, found.roles, found.tier) == (False, frozenset(), None)


def test_two_audiences_make_no_more_of_it() -> None:
    """A token for the feed and for all else is one for the feed."""
    both = claims(aud=["wakestream", "wakestream/feed"], roles=["admin"])
    assert tokens().authenticate(signed(both)).feed


@pytest.mark.parametrize("user", ["ada", "a@b.example", "all", "sub_x", "ä|1"])
def test_a_feed_token_is_for_the_same_user(user: str) -> None:
    """Whatever the subject is that the user was named by."""
    ours = tokens()
    name = user_of(user)
    assert ours.authenticate(ours.mint_feed(name).token).user == name


# ── keys ─────────────────────────────────────────────────────────────────────


def jwk(kid: str, name: str) -> dict[str, Any]:
    """A public key as a file has it."""
    algorithm, private = KEYS[name]
    kinds = {
        "rsa": jwt.algorithms.RSAAlgorithm,
        "ec": jwt.algorithms.ECAlgorithm,
        "ed": jwt.algorithms.OKPAlgorithm,
    }
    public: dict[str, Any] = json.loads(kinds[name].to_jwk(private.public_key()))
    return {**public, "kid": kid, "alg": algorithm}


def written(path: Path, *keys: dict[str, Any]) -> Path:
    """Write a file of keys."""
    path.write_text(json.dumps({"keys": keys}))
    return path


def by_key(name: str, kid: str | None = None, **changed: Any) -> str:
    """Sign with a private key."""
    algorithm, private = KEYS[name]
    headers = {"kid": kid or name}
    return jwt.encode(claims(**changed), private, algorithm=algorithm, headers=headers)


class Clock:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.mark.parametrize("name", KEYS)
def test_each_kind_of_key(tmp_path: Path, name: str) -> None:
    """RS256, ES256 and EdDSA, found by the kid."""
    keys = KeyFile(written(tmp_path / "k", *(jwk(n, n) for n in KEYS)))
    assert tokens(keys=keys).authenticate(by_key(name)).user == "ada"


def test_a_key_is_good_for_its_own_algorithm_only(tmp_path: Path) -> None:
    """Nobody signs with a public key, nor with one key in the name of another."""
    keys = KeyFile(written(tmp_path / "k", *(jwk(n, n) for n in KEYS)))
    ours = tokens(keys=keys)
    public = KEYS["rsa"][1].public_key()
    pem = public.public_bytes(
        encoding=jwt.algorithms.Encoding.PEM,
        format=jwt.algorithms.PublicFormat.SubjectPublicKeyInfo,
    )
    header = {"alg": "HS256", "kid": "rsa", "typ": "JWT"}
    confused = _hmac(header, claims(), pem)
    for forged in (
        confused,
        by_key("ec", "rsa"),
        by_key("rsa", "nobody"),
        signed(claims()),
        jwt.encode(claims(), KEYS["rsa"][1], algorithm="RS256"),
    ):
        with pytest.raises(Unauthorized):
            ours.authenticate(forged)


def _hmac(header: dict[str, Any], said: dict[str, Any], key: bytes) -> str:
    """Sign with any bytes: the library refuses to with a public key."""
    said = {**said, "exp": int(said["exp"].timestamp())}
    body = unsigned(header, said)
    mac = hmac.new(key, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


@pytest.mark.parametrize("more", [{"alg": "RSA-OAEP"}, {"alg": "RS256"}])
def test_a_key_that_is_for_something_else_is_none(
    tmp_path: Path, more: dict[str, str]
) -> None:
    """Identity providers publish keys for encryption beside those for signatures."""
    other = {**jwk("other", "rsa"), "use": "enc", **more}
    path = written(tmp_path / "k", {**jwk("ec", "ec"), "use": "sig"}, other)
    ours = tokens(keys=KeyFile(path))
    assert ours.authenticate(by_key("ec")).user == "ada"
    with pytest.raises(Unauthorized):
        ours.authenticate(by_key("rsa", "other"))
    with pytest.raises(Misconfigured, match="holds no keys"):
        KeyFile(written(path, other))


def test_beside_keys_the_secret_signs_feed_tokens_only(tmp_path: Path) -> None:
    """Who knows it is nobody; a feed token it signs is good."""
    keys = KeyFile(written(tmp_path / "k", jwk("rsa", "rsa")))
    ours = tokens(keys=keys)
    assert ours.authenticate(ours.mint_feed("ada").token).feed
    with pytest.raises(Unauthorized):
        ours.authenticate(ours.mint("ada", lifetime=HOUR).token)


def test_keys_rotate(tmp_path: Path) -> None:
    """A new file is read within a second; then the old key is no more."""
    clock, path = Clock(), written(tmp_path / "k", jwk("one", "rsa"))
    ours = tokens(keys=KeyFile(path, clock=clock))
    assert ours.authenticate(by_key("rsa", "one")).user == "ada"
    written(tmp_path / "new", jwk("two", "ec")).replace(path)
    clock.now += LOOK
    assert ours.authenticate(by_key("ec", "two")).user == "ada"
    with pytest.raises(Unauthorized):
        ours.authenticate(by_key("rsa", "one"))


def test_a_rotation_that_goes_wrong_locks_nobody_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys before it hold, whatever happens to the file; it is said once."""
    clock, path = Clock(), written(tmp_path / "k", jwk("one", "rsa"))
    ours = tokens(keys=KeyFile(path, clock=clock))
    path.write_text("{")
    for _ in range(5):
        clock.now += LOOK
        assert ours.authenticate(by_key("rsa", "one")).user == "ada"
    assert len([r for r in caplog.records if "is not JSON" in r.message]) == 1
    path.unlink()
    for _ in range(5):
        clock.now += LOOK
        assert ours.authenticate(by_key("rsa", "one")).user == "ada"
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 2


def test_what_was_verified_once_still_ends(tmp_path: Path) -> None:
    """A token that is known is refused after its end, and when its key is gone."""
    now = datetime.now(UTC)
    ours = Tokens(SECRET, audience="wakestream", clock=lambda: now)
    short = signed(claims(exp=now + timedelta(seconds=1)))
    assert ours.authenticate(short) is ours.authenticate(short)
    now += timedelta(seconds=32)
    assert ours._remembered(hashlib.sha256(short.encode()).digest()) is None
    clock, path = Clock(), written(tmp_path / "k", jwk("one", "ec"))
    by_file = tokens(keys=KeyFile(path, clock=clock))
    token = by_key("ec", "one")
    assert by_file.authenticate(token) is by_file.authenticate(token)
    written(tmp_path / "new", jwk("two", "ed")).replace(path)
    clock.now += LOOK
    with pytest.raises(Unauthorized):
        by_file.authenticate(token)


def test_what_is_remembered_of_tokens_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest are forgotten, and verified anew."""
    monkeypatch.setattr("gateway.web.tokens.REMEMBERED", 3)
    ours = tokens()
    several = [signed(claims(sub=f"u{n}")) for n in range(10)]
    assert [ours.authenticate(t).user for t in several] == [f"u{n}" for n in range(10)]
    assert len(ours._good) == 3
    assert ours.authenticate(several[0]).user == "u0"


WEAK = jwt.algorithms.RSAAlgorithm.to_jwk(
    rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505 - to be refused
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no keys"),
        ('{"keys": []}', "holds no keys"),
        ('{"keys": [7]}', "no kid in key 1"),
        ('{"keys": [{"kty": "RSA"}]}', "no kid in key 1"),
        ('{"keys": [{"kty": "RSA", "kid": "a"}]}', "cannot be used"),
        ('{"keys": [{"kty": "what", "kid": "a"}]}', "cannot be used"),
        ('{"keys": [{"kty": "oct", "k": "c2Vj", "kid": "a"}]}', "is for HS256"),
        (json.dumps({"keys": [{**json.loads(WEAK), "kid": "a"}]}), "fewer than 2048"),
        (json.dumps({"keys": [jwk("a", "ec"), jwk("a", "ed")]}), "twice"),
        (" " * 2_000_000, "larger than"),
    ],
)
def test_files_that_hold_no_keys(tmp_path: Path, text: str, why: str) -> None:
    """They are refused at the start, with what is wrong."""
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=why):
        KeyFile(path)


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(Misconfigured, match="No such file"):
        KeyFile(tmp_path / "none")


# ── users ────────────────────────────────────────────────────────────────────


@given(st.text(min_size=1, max_size=45))
def test_every_subject_names_a_user_of_its_own(subject: str) -> None:
    """The user is a subject token, and says again whose it is."""
    if len(subject.encode()) > MAX_SUBJECT:
        return
    user = user_of(subject)
    assert check_id(user, "user") == user
    assert subject_of(user) == subject


@pytest.mark.parametrize("subject", ["all", "sub_", "sub_YWxs", "sub_x", "a.b", "*"])
def test_subjects_that_would_pass_for_others(subject: str) -> None:
    """``all`` is nobody's name, and what looks encoded is encoded once more."""
    user = user_of(subject)
    assert user.startswith("sub_")
    assert user != subject
    assert user != user_of(user)
    assert subject_of(user) == subject


@pytest.mark.parametrize("subject", ["", "x" * 65, "é" * 23, "a b" * 16])
def test_subjects_that_name_nobody(subject: str) -> None:
    """They are refused with what is allowed."""
    with pytest.raises(InvalidInput, match="cannot name a user"):
        user_of(subject)

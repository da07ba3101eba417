"""Accounts: what an admin has written down of users who come without a token."""

import msgspec

from events.errors import Conflict, Corrupt
from events.names import ACCOUNTS, check_id
from events.register import Register

ROUNDS = 20
"""Times a change is made anew before giving up: each means that somebody won."""


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tier of a user, empty if none is given, and the roles."""

    tier: str = ""
    roles: tuple[str, ...] = ()


_account = msgspec.json.Decoder(Account)


class Accounts:
    """The accounts in a bucket; every method raises Unavailable."""

    def __init__(self, register: Register) -> None:
        self._register = register

    async def find(self, user: str) -> Account | None:
        """Return a user's account, if there is one; raises Corrupt."""
        return decoded((await self._register.read(user)).value, user)

    async def put(self, user: str, account: Account) -> None:
        """Write an account down in place of what there was; raises InvalidInput."""
        for role in account.roles:
            check_id(role, "role")
        await self._write(user, msgspec.json.encode(account))

    async def remove(self, user: str) -> bool:
        """Forget an account; False if there is none."""
        if not (await self._register.read(check_id(user, "user"))).value:
            return False
        await self._write(user, b"")
        return True

    async def _write(self, user: str, value: bytes) -> None:
        check_id(user, "user")
        for _ in range(ROUNDS):
            held = await self._register.read(user)
            try:
                await self._register.write(user, value, after=held.revision)
            except Conflict:
                continue
            return
        raise Conflict(f"the account of {user} changes too fast")

    async def users(self) -> list[str]:
        """Return who has an account, by name."""
        return await self._register.keys()


def decoded(value: bytes, user: str) -> Account | None:
    """Read an account; an empty one is none. Raises Corrupt."""
    if not value:
        return None
    try:
        return _account.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Corrupt(
            f"the account of {user} cannot be read from the bucket {ACCOUNTS} "
            f"({error}): write it anew with wake user set {user}"
        ) from error

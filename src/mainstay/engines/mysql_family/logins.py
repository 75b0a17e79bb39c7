"""Sessions of ordinary users of an instance. See `EngineLogins` for what each method guarantees."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mainstay.engines.mysql_family.quoting import account
from mainstay.engines.mysql_family.sessions import (
    REFUSED,
    Error,
    Session,
    message_of,
    number_of,
    open_over_tls,
    silent,
    transient,
)
from mainstay.model.errors import Permanent
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret

ACCOUNTS = "SELECT Host FROM mysql.user WHERE User = %s"


class FamilyLogins(ABC):
    """`EngineLogins` for the engines of this family, which differ in the statement that changes a password."""

    @abstractmethod
    def own_change(self, password: Secret, verifier: str) -> str:
        """The statement by which a user, who has no further privilege, changes his own password."""

    @abstractmethod
    def change(self, quoted_account: str, verifier: str) -> str:
        """The statement that changes an account's password."""

    async def may_log_in(self, place: LoginPlace, user: str, password: Secret) -> bool:
        session = await _session(place, user, password)
        if session is None:
            return False
        await session.close()
        return True

    async def set_password(
        self, place: LoginPlace, user: str, password: Secret, *, target: str, new: Secret, verifier: str
    ) -> None:
        session = await _session(place, user, password)
        if session is None:
            raise Permanent(f"the engine does not let {user} in")
        try:
            if target == user:
                await session.execute(self.own_change(new, verifier))
                return
            hosts = [row[0] for row in await session.execute(ACCOUNTS, (target,))]
            if not hosts:
                raise Permanent(f"the engine has no user {target}")
            for host in hosts:
                await session.execute(self.change(account(target, host), verifier))
        except Error as error:
            if silent(error):
                raise transient(error) from error
            raise Permanent(f"the engine refuses the new password of {target}: {message_of(error)}") from None
        finally:
            await session.close()


async def _session(place: LoginPlace, user: str, password: Secret) -> Session | None:
    """None if the engine does not let the user in. Raises `Transient`."""
    try:
        return await open_over_tls(
            address=place.address,
            server_name=place.host,
            port=place.port,
            authorities=place.authorities,
            user=user,
            password=password.reveal(),
        )
    except Error as error:
        if number_of(error) in REFUSED:
            return None
        raise transient(error) from error

"""GetRandomPassword, and the passwords that Mainstay itself makes for databases."""

from __future__ import annotations

from mainstay.host.randomness import Randomness
from mainstay.services.operations import Call, Request, Result
from mainstay.services.secretsmanager.checks import invalid_parameter
from mainstay.services.secretsmanager.table import operations

LOWERCASE = "abcdefghijklmnopqrstuvwxyz"
UPPERCASE = LOWERCASE.upper()
NUMBERS = "0123456789"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
DEFAULT_LENGTH = 32
_TYPES = (
    ("ExcludeLowercase", LOWERCASE),
    ("ExcludeUppercase", UPPERCASE),
    ("ExcludeNumbers", NUMBERS),
    ("ExcludePunctuation", PUNCTUATION),
)


@operations.handles("GetRandomPassword")
def get_random_password(call: Call, request: Request) -> Result:
    """A password from the kernel's random generator."""
    length = request.get("PasswordLength", DEFAULT_LENGTH)
    excluded = frozenset(request.get("ExcludeCharacters", ""))
    kinds = ["".join(one for one in kind if one not in excluded) for member, kind in _TYPES if not request.get(member)]
    kinds = [kind for kind in kinds if kind]
    alphabet = "".join(kinds) + (" " if request.get("IncludeSpace") and " " not in excluded else "")
    if not alphabet:
        raise invalid_parameter("The password can't be generated: every character is excluded.")
    required = kinds if request.get("RequireEachIncludedType", True) else []
    if length < len(required):
        raise invalid_parameter("Password length is too short based on the required types.")
    return {"RandomPassword": random_password(call.randomness, length, alphabet, required)}


def random_password(randomness: Randomness, length: int, alphabet: str, required: list[str]) -> str:
    """`length` characters of the alphabet in random order, one at least of each required kind."""
    drawn = [randomness.text(1, kind) for kind in required]
    drawn += randomness.text(length - len(drawn), alphabet)
    for place in range(len(drawn) - 1, 0, -1):
        other = randomness.below(place + 1)
        drawn[place], drawn[other] = drawn[other], drawn[place]
    return "".join(drawn)

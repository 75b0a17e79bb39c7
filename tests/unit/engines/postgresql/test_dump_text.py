"""How a script of pg_dump is read: statements, data, what is refused. The same however the bytes arrive."""

from __future__ import annotations

import io
import random

import pytest

from mainstay.engines.postgresql import dump_text
from mainstay.engines.postgresql.dump_text import ScriptReader, Statement, shown
from mainstay.model.errors import Permanent

DATA = "<data>"


class Dribble:
    """Gives what there is in pieces of random length."""

    def __init__(self, content: bytes, seed: int) -> None:
        self._file, self._random = io.BytesIO(content), random.Random(seed)

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._random.choice((1, 1, 2, 3, 5, 8, 13, 200))))


def read(script: str | bytes, seed: int | None = None, *, backslash_quotes: bool = False) -> list[str]:
    """The statements, and behind each that begins with COPY its data."""
    content = script if isinstance(script, bytes) else script.encode()
    reader = ScriptReader(io.BytesIO(content) if seed is None else Dribble(content, seed))
    reader.backslash_quotes = backslash_quotes
    found = []
    while (statement := reader.next_statement()) is not None:
        found.append(statement.text.decode())
        if statement.words[:1] == ("COPY",):
            found.append(DATA + b"".join(reader.copy_data()).decode())
    return found


BODY = (
    "CREATE OR REPLACE FUNCTION begin(a int) RETURNS int\n BEGIN ATOMIC"
    " SELECT CASE 1 WHEN 1 THEN CASE 2 WHEN 2 THEN 3 END END; SELECT 3;\nEND"
)
SPLIT = {
    "SELECT 1; SELECT 2;": ["SELECT 1", "SELECT 2"],
    "  \n-- a; b\nSELECT 1 -- c; d\n + 2;": ["SELECT 1 -- c; d\n + 2"],
    "/* a; /* nested; */ \\! */ SELECT /* ; */ 1;": ["SELECT /* ; */ 1"],
    "SELECT ';', ';''\\', \";\"\";\", 1; SELECT 2": ["SELECT ';', ';''\\', \";\"\";\", 1", "SELECT 2"],
    "SELECT E'a\\';\\\\', e';\\'', 'x\\'; SELECT 2;": ["SELECT E'a\\';\\\\', e';\\'', 'x\\'", "SELECT 2"],
    "SELECT E'a'\n'\\'; b'; SELECT 2;": ["SELECT E'a'\n'\\'; b'", "SELECT 2"],
    "SELECT E'a' -- no\n '\\'; b'; SELECT 2;": ["SELECT E'a' -- no\n '\\'; b'", "SELECT 2"],
    "SELECT type'a\\'; SELECT 2;": ["SELECT type'a\\'", "SELECT 2"],
    "SELECT $$;'$$, $a$ ; $$ ; $a$, x$b$y, $1; SELECT 2;": ["SELECT $$;'$$, $a$ ; $$ ; $a$, x$b$y, $1", "SELECT 2"],
    "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); SELECT 3;": [
        "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)", "SELECT 3",
    ],
    f"{BODY}; SELECT 4;": [BODY, "SELECT 4"],
    "CREATE TABLE begin (a int); SELECT 1;": ["CREATE TABLE begin (a int)", "SELECT 1"],
    "\\restrict Ab1\n\nSELECT 1;\n\\unrestrict Ab1\n": ["SELECT 1"],
    "COPY t (a) FROM stdin;\na;\\N'\n\\\\.\n\\.x\n\\.\nSELECT 1;": [
        "COPY t (a) FROM stdin", DATA + "a;\\N'\n\\\\.\n\\.x\n",
                                                           "SELECT 1"],
    "COPY t (a) FROM stdin;\n\\.\nCOPY t FROM stdin;\r\nb\r\n\\.\r\n": ["COPY t (a) FROM stdin", DATA,
                                                                  "COPY t FROM stdin", DATA + "b\r\n"],
    "COPY t (a) FROM stdin;\nlast\n\\.": ["COPY t (a) FROM stdin", DATA + "last\n"],
    "": [],
    "-- nothing": [],
    "SELECT 'open; to the end": ["SELECT 'open; to the end"],
    "SELECT /* open; to the end": ["SELECT /* open; to the end"],
}  # fmt: skip


@pytest.mark.parametrize("script", SPLIT)
def test_statements_and_data_are_told_apart(script: str) -> None:
    expected = SPLIT[script]
    assert read(script) == expected
    for seed in range(20):
        assert read(script, seed) == expected, seed


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read(b"\xef\xbb\xbfSELECT 1;") == ["SELECT 1"]


def test_ordinary_quotes_take_backslashes_where_the_session_says_so() -> None:
    script = "SELECT 'a\\'; SELECT 2;'; SELECT 3;"
    assert read(script, backslash_quotes=True) == ["SELECT 'a\\'; SELECT 2;'", "SELECT 3"]
    assert read(script)[0] == "SELECT 'a\\'"


def test_lines_are_counted() -> None:
    lines = [f"-- {number}\nSELECT\n{number};\n" for number in range(500)]
    reader = ScriptReader(Dribble("".join(lines).encode(), 1))
    found = []
    while (statement := reader.next_statement()) is not None:
        found.append(statement.line)
    assert found == [number * 3 + 2 for number in range(500)]


REFUSED = {
    "SELECT 1;\n\\! touch /tmp/x\n": r"line 2 .* a command to psql, which is not run: \\! touch /tmp/x",
    "SELECT 1 \\g /tmp/x\n": r"line 1 .* a command to psql",
    "SELECT 1\n\\gexec\n": r"line 2 .* a command to psql",
    "\\i /etc/passwd": r"line 1 .* a command to psql",
    "\\connect other\n": r"a command to psql",
    "\\unrestrict `touch /tmp/x`\n": r"a command to psql",
    "\\restrict Ab1 \\! touch /tmp/x\n": r"a command to psql",
    "\\restrict\n": r"a command to psql",
    "\\.\n": r"a command to psql",
    "-- Name: a\n\\! touch /tmp/x\n; Type: TABLE": r"line 2 .* a command to psql",
    "SELECT 1;\n\x00": r"NUL byte",
    "COPY t FROM stdin; SELECT 1;\n": r"line 1 .* data must begin on the line after",
    "\n\nCOPY t FROM stdin;\na\nb\n": r"cut off: the data that begins in line 4 has no end",
    "--\n-- PostgreSQL database dump\n--\n\nSELECT 1;\n": r"cut off: its last line is missing",
}


@pytest.mark.parametrize("script", REFUSED)
def test_what_pg_dump_does_not_write_is_refused(script: str) -> None:
    with pytest.raises(Permanent, match=REFUSED[script]):
        read(script)
    for seed in range(10):
        with pytest.raises(Permanent, match=REFUSED[script]):
            read(script, seed)


def test_a_dump_of_a_whole_server_is_told_from_an_attack() -> None:
    with pytest.raises(Permanent) as refused:
        read("\\connect shop\n")
    assert "pg_dumpall" in refused.value.hint


HEAD = (
    "--\n-- PostgreSQL database dump\n--\n\n--\n-- Name: {name}; Type: TABLE; Schema: public; Owner: app\n--\n\n{end}"
)
END = "--\n-- PostgreSQL database dump complete\n--\n"


def test_a_name_that_leaves_its_comment_is_refused() -> None:
    assert read(HEAD.format(name="t; Type", end=f"SELECT 1;\n{END}")) == ["SELECT 1"]
    for name in ("x\nDROP TABLE keep; --", "x; Type: TABLE; Schema: public; Owner: a\nDROP TABLE keep; --"):
        for seed in range(5):
            with pytest.raises(Permanent, match=r"line 6 .* has a line break in it"):
                read(HEAD.format(name=name, end=END), seed)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement is held as a whole, data is not, however long its lines are."""
    monkeypatch.setattr(dump_text, "STATEMENT_BYTES_MAX", 4 << 20)
    with pytest.raises(Permanent, match=r"line 2 .* longer than 4 MiB"):
        read(b"SELECT 1;\nINSERT INTO t VALUES ('" + b"x" * (6 << 20) + b"');\n")
    with pytest.raises(Permanent, match="longer than 4 MiB"):
        read(b"SELECT '" + b"x\n" * (3 << 20) + b"';\n")
    long = b"y" * (7 << 20)
    reader = ScriptReader(io.BytesIO(b"COPY t FROM stdin;\n" + long + b"\n" + long + b"\n\\.\nSELECT 1;\n"))
    assert reader.next_statement() == Statement(b"COPY t FROM stdin", 1)
    pieces = list(reader.copy_data())
    assert b"".join(pieces) == long + b"\n" + long + b"\n" and max(map(len, pieces)) <= 3 << 20
    assert reader.next_statement() == Statement(b"SELECT 1", 5)


def test_first_words() -> None:
    assert Statement(b"rollback/* */to SAVEPOINT a", 1).words == ("ROLLBACK", "TO", "SAVEPOINT", "A")
    assert Statement(b"COMMIT -- now\n", 1).words == ("COMMIT",) and Statement(b"COMMIT -- now\n", 1).words_only
    assert not Statement(b"COMMIT and chain", 1).words_only or Statement(b"COMMIT and chain", 1).words != ("COMMIT",)
    assert not Statement(b"BEGIN; x", 1).words_only and not Statement(b"COMMIT a b c d", 1).words_only
    assert Statement(b'"COMMIT" x', 1).words == ()


def test_what_is_shown_is_one_line_without_control_characters() -> None:
    assert shown(b"a\n\tb\x1b[31m\xff") == "a b\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"
    assert shown(b"x" * 300) == "x" * 200 + " …"

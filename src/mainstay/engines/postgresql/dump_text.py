"""Reads a script as pg_dump writes it: SQL statements, and the data of COPY between them. Runs nothing.

There is no psql here, so no line of a dump can be a command to it: what psql would take for one is refused, but
\\restrict and \\unrestrict, which are passed over. Statements are told apart as psql does it (psqlscan.l): by a
semicolon outside of quotes, comments, parentheses and bodies of SQL-standard functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn, Protocol

import msgspec

from mainstay.model.errors import Permanent

CHUNK_BYTES = 1 << 20
STATEMENT_BYTES_MAX = 256 << 20
SHOWN_CHARACTERS = 200
HEAD_BYTES = 4096

SPACE = re.compile(rb"[ \t\r\n\f\v]*")
MARK = re.compile(rb"""['"\\;()$]|--|/\*""")
MARK_OR_WORD = re.compile(rb"""['"\\;()$]|--|/\*|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*""")
QUOTE, NAME_QUOTE, LINE_BREAK = re.compile(b"'"), re.compile(b'"'), re.compile(b"\n")
NAME_CHARACTER = re.compile(rb"[A-Za-z0-9_$\x80-\xff]")
DOLLAR_QUOTE = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
ESCAPED_END = re.compile(rb"\\.|''|'", re.DOTALL)
COMMENT_EDGE = re.compile(rb"/\*|\*/")
CONTINUED = re.compile(rb"(?:[ \t\f\v]|--[^\r\n]*)*[\r\n](?:[ \t\r\n\f\v]|--[^\r\n]*[\r\n])*")
"""Between two parts of one string (manual 4.1.2.1): the second has the kind of the first."""

RESTRICTING = re.compile(rb"\\(?:un)?restrict [A-Za-z0-9]+\s*")
CONNECTING = re.compile(rb"\\c(?:onnect)?\b")
COPY_END = re.compile(rb"\\\.\r?(?:\n|\Z)")
REST_OF_LINE = re.compile(rb"[ \t\r]*(?:\n|\Z)")
ANY_COMMENT = re.compile(rb"--[^\r\n]*|/\*.*?\*/", re.DOTALL)
WORD = re.compile(rb"[A-Za-z_]+")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BEGINNING, END = b"-- PostgreSQL database dump", b"-- PostgreSQL database dump complete"
NAMED = re.compile(rb"-- (?:Data for |Statistics for )?Name: ")
FRAMED = re.compile(rb"[^\r\n]*; Type: [^\r\n]*; Schema: [^\r\n]*; Owner: [^\r\n]*\r?\n--\r?\n")
"""How pg_dump heads every object. The name of one with a line break broke out of the comment before CVE-2025-8715."""

WHOLE_SERVER = "It is of pg_dumpall or `pg_dump --create`: load a dump of each database, taken without --create."
TAKE_ANEW = "Take it anew, in the custom format (pg_dump -Fc) and with a pg_dump that has the fixes of 2026."


LONG_LINE_BYTES = 1 << 20


class Source(Protocol):
    """Where the script comes from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, b"" at the end."""


class Statement(msgspec.Struct, frozen=True):
    """One statement, without its semicolon; `line` is where in the script it begins, from 1."""

    text: bytes
    line: int

    @property
    def words(self) -> tuple[str, ...]:
        """Its first words, at most four, in upper case."""
        found: list[str] = []
        for word in self._head.split(maxsplit=4)[:4]:
            if not WORD.fullmatch(word):
                break
            found.append(word.decode().upper())
        return tuple(found)

    @property
    def words_only(self) -> bool:
        """Whether there is nothing in it but `words`."""
        return len(self.text) <= HEAD_BYTES and len(self._head.split()) == len(self.words)

    @property
    def _head(self) -> bytes:
        return ANY_COMMENT.sub(b" ", self.text[:HEAD_BYTES])


def shown(text: bytes, most: int = SHOWN_CHARACTERS) -> str:
    """Text of a dump or of an engine as a terminal may be shown it: one line, no control characters."""
    line = " ".join(text[: most * 8].decode(errors="replace").split())
    safe = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
    return safe if len(safe) <= most else safe[:most] + " …"


class Window:
    """What of the script is in memory: `buffer` from `pos` to `end`, which is behind a line break or at the end of all.

    No token of SQL goes beyond a line, so whoever reads it finds whole tokens. What is before `start` (`pos`, while no
    statement has begun) may be dropped by `more`, which moves all places.
    """

    def __init__(self, source: Source) -> None:
        self.buffer = bytearray()
        self.pos = 0
        self.end = 0
        self.start: int | None = None
        self._source = source
        self._ended = False
        self._line = 1
        self._counted = 0

    def line_at(self, pos: int) -> int:
        """The number of the line, from 1. Places are asked for in their order."""
        self._line += self.buffer.count(b"\n", self._counted, pos)
        self._counted = max(self._counted, pos)
        return self._line

    def rest_of_line(self, pos: int) -> bytes:
        """From the place on, without the line break."""
        end = self.buffer.find(b"\n", pos, self.end)
        return bytes(self.buffer[pos : self.end if end < 0 else end]).rstrip(b"\r")

    def find(self, mark: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Moves behind the next mark, reading on as needed; None, and at the end of the script, if there is none."""
        while (found := mark.search(self.buffer, self.pos, self.end)) is None:
            self.pos = self.end
            if not self.more():
                return None
        self.pos = found.end()
        return found

    def more(self, *, data: bool = False) -> bool:
        """Reads on to the end of a line at least; False at the end of the script.

        Of `data` a long line comes in pieces. Raises `Permanent` for a statement that is too long.
        """
        self._drop()
        while not self._ended:
            chunk = self._source.read(CHUNK_BYTES)
            before = len(self.buffer)
            self.buffer += chunk
            line_break = self.buffer.rfind(b"\n", before)
            if not chunk:
                self._ended = True
                grown, self.end = self.end < before, before
                return grown
            if line_break >= 0:
                self.end = line_break + 1
                return True
            if data and len(self.buffer) - self.end >= LONG_LINE_BYTES:
                self.end = len(self.buffer)
                return True
            self._require_bounded()
        return False

    def _drop(self) -> None:
        begun = self.pos if self.start is None else self.start
        self.line_at(begun)
        kept = max(0, begun - 1)  # what is before tells where a line begins
        del self.buffer[:kept]
        self.pos -= kept
        self.end -= kept
        self._counted -= kept
        if self.start is not None:
            self.start -= kept
        self._require_bounded()

    def _require_bounded(self) -> None:
        if len(self.buffer) > STATEMENT_BYTES_MAX:
            raise Permanent(
                f"line {self._line} of the dump begins something longer than {STATEMENT_BYTES_MAX >> 20} MiB",
                hint="Take the dump without --inserts, so that its rows come as data.",
            )


class ScriptReader:
    """The statements of a script, in order. After one that asks for data, `copy_data` is it.

    `backslash_quotes`: ordinary quotes take backslashes for escapes, as with `standard_conforming_strings` off.
    Every method raises `Permanent` for what is no script of pg_dump, with the line. At most a statement is held in
    memory, and of data a piece.
    """

    def __init__(self, source: Source) -> None:
        self.backslash_quotes = False
        self._window = Window(source)
        self._framed = False
        self._whole = True

    def next_statement(self) -> Statement | None:
        """The next one, None at the end of the script. A script of pg_dump that was cut off has no end."""
        if not self._pass_over():
            if not self._whole:
                raise Permanent("the dump is cut off: its last line is missing", hint="Copy it, or take it, again.")
            return None
        window = self._window
        line = window.line_at(window.pos)
        window.start = window.pos
        last = _Scan(window, backslash_quotes=self.backslash_quotes).to_semicolon()
        text = bytes(memoryview(window.buffer)[window.start : last])
        window.start = None
        if b"\0" in text:
            raise Permanent(f"line {line} of the dump: there is a NUL byte in it", hint="Is it a dump at all?")
        return Statement(text, line)

    def copy_data(self) -> Iterator[bytes]:
        """The data behind the statement, in pieces, up to the line that ends it."""
        window = self._window
        line = window.line_at(window.pos)
        rest = REST_OF_LINE.match(window.buffer, window.pos, window.end)
        if rest is None:
            raise Permanent(f"line {line} of the dump: data must begin on the line after COPY")
        window.pos = rest.end()
        while True:
            piece, done = self._data_there()
            if piece:
                yield piece
            if done:
                return
            if not window.more(data=True):
                raise Permanent(
                    f"the dump is cut off: the data that begins in line {line + 1} has no end",
                    hint="Copy it, or take it, again.",
                )

    def _data_there(self) -> tuple[bytes, bool]:
        """The data that is in memory, and whether that was the rest of it."""
        window = self._window
        first, end, at = window.pos, window.end, window.pos - 1  # the line break before
        while True:
            at = window.buffer.find(b"\n\\.", at, end)
            if at < 0:
                window.pos = end
                return bytes(memoryview(window.buffer)[first:end]), False
            last = COPY_END.match(window.buffer, at + 1, end)
            if last is not None:
                window.pos = last.end()
                return bytes(memoryview(window.buffer)[first : at + 1]), True
            at += 1

    def _pass_over(self) -> bool:
        """Space, comments and lines to psql that mean nothing here; False at the end of the script."""
        window = self._window
        while True:
            space = SPACE.match(window.buffer, window.pos, window.end)
            window.pos = space.end() if space else window.pos
            here = bytes(window.buffer[window.pos : min(window.pos + 3, window.end)])
            if not here:
                if not window.more():
                    return False
            elif here == BYTE_ORDER_MARK and window.line_at(window.pos) == 1:
                window.pos += len(here)
            elif here.startswith(b"--"):
                self._pass_line_comment()
            elif here.startswith(b"/*"):
                _Scan(window).block_comment()
            elif here.startswith(b"\\"):
                text = window.rest_of_line(window.pos)
                if RESTRICTING.fullmatch(text) is None:
                    refuse_command(window, window.pos)
                window.pos += len(text)
            else:
                return True

    def _pass_line_comment(self) -> None:
        window = self._window
        text = window.rest_of_line(window.pos)
        if text == BEGINNING:
            self._framed, self._whole = True, False
        elif text == END:
            self._whole = True
        elif self._framed and NAMED.match(text):
            while window.buffer.count(b"\n", window.pos, window.end) < 2 and window.more():
                pass
            if FRAMED.match(window.buffer, window.pos, window.end) is None:
                raise Permanent(
                    f"line {window.line_at(window.pos)} of the dump: the name of an object has a line break in it,"
                    f" which leaves its comment: {shown(text)}",
                    hint=TAKE_ANEW,
                )
        window.pos += len(text)


class _Scan:
    """One way through quotes and comments, from the window's place on.

    Text that ends within one is left to the engine to refuse.
    """

    def __init__(self, window: Window, *, backslash_quotes: bool = False) -> None:
        self._window = window
        self._backslash_quotes = backslash_quotes
        self._words: list[bytes] = []
        self._last_word = b""
        self._parentheses = 0
        self._bodies = 0
        self._escaped_end: int | None = None
        """How far into the statement the last string with escapes ended."""
        self._mark = MARK_OR_WORD

    def to_semicolon(self) -> int:
        """Moves behind the semicolon that ends the statement, or to the end of the script; where the text ends."""
        while (found := self._window.find(self._mark)) is not None:
            mark = found[0]
            if mark == b";" and self._parentheses <= 0 and self._bodies == 0:
                return found.start()
            self._meet(mark, found.start())
        return self._window.end

    def _meet(self, mark: bytes, at: int) -> None:
        if mark == b"'":
            self._string(at)
        elif mark == b'"':
            self._window.find(NAME_QUOTE)
        elif mark == b"--":
            self._window.find(LINE_BREAK)
        elif mark == b"/*":
            self._window.pos = at
            self.block_comment()
        elif mark == b"$":
            self._dollar(at)
        elif mark == b"\\":
            refuse_command(self._window, at)
        elif mark in b"()":
            self._parentheses += 1 if mark == b"(" else -1
        elif mark != b";":
            self._word(mark.lower())

    def _word(self, word: bytes) -> None:
        """Bodies of SQL-standard functions have semicolons: CREATE [OR REPLACE] FUNCTION … BEGIN ATOMIC … END."""
        before, self._last_word = self._last_word, word
        if len(self._words) < 4:
            self._words.append(word)
            if self._words[0] != b"create" or (len(self._words) == 4 and not self._is_routine()):
                self._mark = MARK  # words mean nothing in this one: faster
        if self._parentheses > 0 or not self._is_routine():
            return
        if (word == b"atomic" and before == b"begin") if self._bodies == 0 else word == b"case":
            self._bodies += 1
        elif word == b"end" and self._bodies:
            self._bodies -= 1

    def _is_routine(self) -> bool:
        words = self._words
        kind = words[3:4] if words[1:3] == [b"or", b"replace"] else words[1:2]
        return words[0] == b"create" and kind in ([b"function"], [b"procedure"])

    def _string(self, at: int) -> None:
        window = self._window
        begin = window.start or 0
        before = bytes(window.buffer[max(begin, at - 2) : at])
        escapes = before[-1:] in (b"e", b"E") and NAME_CHARACTER.match(before[:-1]) is None
        if not escapes and self._escaped_end is not None:
            gap = bytes(memoryview(window.buffer)[begin + self._escaped_end : at])
            escapes = CONTINUED.fullmatch(gap) is not None
        if not (escapes or self._backslash_quotes):
            window.find(QUOTE)
            return
        while (found := window.find(ESCAPED_END)) is not None:
            if found[0] == b"'":
                self._escaped_end = window.pos - (window.start or 0)
                return

    def _dollar(self, at: int) -> None:
        """A dollar within a name is part of it, and one before a digit is a parameter."""
        window = self._window
        if at > (window.start or 0) and NAME_CHARACTER.match(window.buffer, at - 1):
            return
        tag = DOLLAR_QUOTE.match(window.buffer, at, window.end)
        if tag is not None:
            window.pos = tag.end()
            window.find(re.compile(re.escape(tag[0])))

    def block_comment(self) -> None:
        """Moves behind the comment that begins here; comments nest."""
        depth = 0
        while (found := self._window.find(COMMENT_EDGE)) is not None:
            depth += 1 if found[0] == b"/*" else -1
            if depth == 0:
                return


def refuse_command(window: Window, pos: int) -> NoReturn:
    """Raises `Permanent` for what psql would take for a command at this place."""
    text = window.rest_of_line(pos)
    hint = TAKE_ANEW
    if CONNECTING.match(text):
        hint = WHOLE_SERVER
    raise Permanent(
        f"line {window.line_at(pos)} of the dump: a command to psql, which is not run: {shown(text)}", hint=hint
    )

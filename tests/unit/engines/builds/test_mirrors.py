"""Reading the host's apt sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.engines.builds.mirrors import Mirrors, find_mirrors
from mainstay.model.errors import Permanent

DEB822 = """\
# chosen by the administrator
Types: deb deb-src
URIs: http://mirror.example.org/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main
"""


def _apt(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        place = tmp_path if name == "sources_list" else tmp_path / "sources.list.d"
        (place / name.replace("_", ".")).write_text(text)
    return tmp_path


def test_deb822_sources(tmp_path: Path) -> None:
    expected = Mirrors("http://mirror.example.org/debian", "http://mirror.example.org/debian-security")
    assert find_mirrors(_apt(tmp_path, debian_sources=DEB822)) == expected


def test_one_line_sources_with_options_and_comments(tmp_path: Path) -> None:
    text = """
    # deb http://old.example.org/debian bookworm main
    deb-src http://source.example.org/debian bookworm main
    deb [arch=amd64 signed-by=/k.gpg] https://a.example.org/debian trixie main non-free # ours
    deb https://a.example.org/security/ trixie-security main
    """
    assert find_mirrors(_apt(tmp_path, sources_list=text)) == Mirrors(
        "https://a.example.org/debian", "https://a.example.org/security"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb https://packages.example.org/apt cloud-sdk-bookworm main",
        "deb https://a.example.org/debian bookworm contrib",
        "deb https://a.example.org/debian bookworm-security main",
        "deb https://a.example.org/ubuntu jammy main",
        "deb https://a.example.org/debian",
    ],
)
def test_other_archives_are_not_taken_for_debian(tmp_path: Path, text: str) -> None:
    with pytest.raises(Permanent) as caught:
        find_mirrors(_apt(tmp_path, sources_list=text))
    assert caught.value.hint


def test_a_disabled_stanza_does_not_count_and_continuation_lines_do(tmp_path: Path) -> None:
    disabled = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")
    other = (
        "Types: deb\nURIs: http://b.example.org/debian\nSuites:\n bookworm\n # not this\n trixie\nComponents: main\n"
    )
    apt = _apt(tmp_path, a_sources=disabled.split("\n\n")[0], b_sources=other)
    assert find_mirrors(apt) == Mirrors("http://b.example.org/debian")


def test_an_unreadable_file_is_passed_over(tmp_path: Path) -> None:
    apt = _apt(tmp_path, debian_sources=DEB822)
    (apt / "sources.list.d" / "broken.list").symlink_to("/nonexistent")
    assert find_mirrors(apt).archive == "http://mirror.example.org/debian"

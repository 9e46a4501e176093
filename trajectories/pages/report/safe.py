r"""Text that others wrote, made harmless to look at. Defines `visible`.

Tool output and model text may hold terminal control sequences, characters that reverse or hide what follows, and lone
surrogates, which no encoder accepts. `visible` spells them out: ESC becomes the four characters `\x1b`.
"""

from __future__ import annotations

import re

__all__ = ["visible"]

# C0 but tab and newline, DEL and C1; soft hyphen; direction marks and overrides; zero-width space (the joiners stay:
# Persian and emoji need them); line and paragraph separators; invisible operators; byte order mark; annotation marks;
# surrogates; tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""`text` with control, invisible and unencodable characters as `\x1b`, `\u202e`, `\U000e0041`. Newlines and tabs
    stay; `\r\n` counts as a newline. The result always encodes as UTF-8."""
    return _UNSAFE.sub(_spell, text.replace("\r\n", "\n"))


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

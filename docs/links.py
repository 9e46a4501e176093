"""A hook of MkDocs: links from a document to a file outside of `docs`, such as the source of an environment.

In a clone they lead there. The built site has no such file: with `repo_url` in mkdocs.yml they lead to the hosted
repository, and without it only their text stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with the text of each page; the text to render."""
    root = Path(config.docs_dir).resolve()
    here = root / Path(page.file.src_uri).parent

    def outside(link: re.Match[str]) -> str:
        target = (here / link["target"]).resolve()
        if target.is_relative_to(root):
            return link[0]
        if not config.repo_url:
            return link["text"]
        return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/main/{target.relative_to(root.parent)})"

    return LINK.sub(outside, markdown)

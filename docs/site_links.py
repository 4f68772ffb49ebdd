"""A hook of mkdocs: links to files outside docs/ become their paths, since those files are not part of the site."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([\w./-]+)(?:#[\w-]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """`[README](../README.md)` -> "README (`README.md` in the repository)"; from a folder of docs/, `../x.md` stays."""
    depth = page.file.src_uri.count("/")

    def plain(found: re.Match[str]) -> str:
        ups = found[0].count("../")
        return found[0] if ups <= depth else f"{found[1]} (`{found[2]}` in the repository)"

    return _OUTSIDE.sub(plain, markdown)

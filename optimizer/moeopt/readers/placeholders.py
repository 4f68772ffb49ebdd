"""`${NAME}` in the values of a YAML or JSON file, as the tool that starts the run would fill it in: envsubst's
`${NAME:-default}`, Primus's `${NAME:default}`."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

_MARK = re.compile(r"\$\{([A-Za-z_]\w*)(?:(?::?-|:)([^{}]*))?\}")


def filled(content: Any, given: Mapping[str, str]) -> Any:
    """The content with known marks replaced; a mark without a value stays, and is refused where a number is needed."""
    if isinstance(content, dict):
        return {name: filled(value, given) for name, value in content.items()}
    if isinstance(content, list):
        return [filled(value, given) for value in content]
    if not isinstance(content, str) or "${" not in content:
        return content
    text = _MARK.sub(lambda mark: given.get(mark[1], mark[0] if mark[2] is None else mark[2]), content)
    return text if text == content or "${" in text else _scalar(text)


def _scalar(text: str) -> Any:
    """A word as YAML would have read it in that place; everything else stays text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if value is None or isinstance(value, (bool, int, float)) else text

"""HTML and SVG from values that nobody has checked: every text is escaped here, and nowhere else."""

from collections.abc import Iterable, Sequence
from html import escape as _escape


def text(value: object) -> str:
    """A value as text that means nothing to a browser; control characters are dropped."""
    return _escape("".join(each for each in str(value) if each >= " " or each in "\n\t"))


def element(name: str, inner: str = "", **attributes: object) -> str:
    """One element; `inner` is markup. `class_` is `class`, underscores in names are dashes."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{inner}</{name}>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str, numbers: Sequence[int] = ()) -> str:
    """A table of texts with a caption; the columns in `numbers` are set to the right."""
    head = "".join(
        element("th", text(name), scope="col", class_="number" if i in numbers else None)
        for i, name in enumerate(header)
    )
    lines = []
    for row in rows:
        cells = [element("td", text(value), class_="number" if i in numbers else None) for i, value in enumerate(row)]
        lines.append(element("tr", "".join(cells)))
    inner = element("caption", text(caption)) + element("thead", element("tr", head)) + element("tbody", "".join(lines))
    return element("div", element("table", inner), class_="scroll")


def section(title: str, anchor: str, *parts: str) -> str:
    """A titled part of the page."""
    return element("section", element("h2", text(title)) + "".join(parts), id=anchor)


def paragraph(words: object, class_: str | None = None) -> str:
    """A paragraph of text."""
    return element("p", text(words), class_=class_)


def svg(width: int, height: int, title: str, shapes: Iterable[str]) -> str:
    """A picture that scales to the page's width; its title is what a screen reader says."""
    inner = element("title", text(title)) + "".join(shapes)
    box = f"0 0 {width} {height}"
    picture = element("svg", inner, viewBox=box, role="img", aria_label=title, width=width, height=height)
    return element("div", picture, class_="scroll")


def rectangle(
    x: float, y: float, width: float, height: float, fill: str, hint: str = "", stroke: str | None = None
) -> str:
    """A filled box; `hint` shows where the pointer rests."""
    inner = element("title", text(hint)) if hint else ""
    return element(
        "rect", inner, x=_short(x), y=_short(y), width=_short(width), height=_short(height), fill=fill, stroke=stroke
    )


def label(x: float, y: float, words: object, anchor: str = "start", class_: str | None = None) -> str:
    """A line of text in a picture."""
    return element("text", text(words), x=_short(x), y=_short(y), text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str = "axis") -> str:
    """A straight line."""
    return element("line", x1=_short(x1), y1=_short(y1), x2=_short(x2), y2=_short(y2), class_=class_)


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Colour and name of each kind."""
    items = (
        element("li", element("span", "", class_="swatch", style=f"background:{colour}") + text(name))
        for name, colour in entries
    )
    return element("ul", "".join(items), class_="legend")


def hue(index: int, count: int) -> str:
    """A colour for each of many groups, neighbours far apart."""
    angle = (index * 137) % 360 if count > 12 else index * 360 // max(count, 1)
    return f"hsl({angle},55%,{70 - 12 * (index // 360 % 2)}%)"


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")

"""The picture of docs/memory.md: `python benchmarks/memory_picture.py > docs/memory.svg`.

One bar a pipeline stage of every SimuMax run (B200): the predicted parts stacked, the measured peak of torch's counter
as a line across the bar. Nothing but the standard library draws it.
"""

from collections.abc import Iterator
from html import escape

from memory import load, predict

PARTS = {
    "weights_bytes": ("weights", "#4477aa"),
    "gradients_bytes": ("gradients", "#66ccee"),
    "optimizer_bytes": ("optimizer", "#228833"),
    "activations_bytes": ("activations", "#ccbb44"),
    "buffers_bytes": ("buffers", "#aa3377"),
}
"""Part of a stage, its name and its colour (Paul Tol's bright scheme, which colour-blind readers can tell apart)."""
GIB = 2**30
HEIGHT, TOP, LEFT, BAR, GAP, BELOW = 320, 44, 56, 26, 12, 190


def stages() -> Iterator[tuple[str, dict[str, int], int]]:
    """Label, predicted parts and measured peak of each stage."""
    data = load()
    for row in data["rows"]:
        peaks = row["measured"].get("stage_peaks")
        if peaks:
            predicted, _ = predict(row, data["architectures"], moments=True)
            for rank, (stage, measured) in enumerate(zip(predicted, peaks, strict=True)):
                given = row["layout"]
                degrees = " ".join(f"{name}{given[name]}" for name in ("tp", "cp", "pp", "ep") if given[name] > 1)
                name = f"{row['architecture'].removesuffix('-cut')} {degrees}"
                yield (
                    name if len(peaks) == 1 else f"{name}, stage {rank}",
                    {part: getattr(stage, part) for part in PARTS},
                    measured,
                )


def bars(found: list[tuple[str, dict[str, int], int]], scale: float) -> Iterator[str]:
    """The bars, their labels and the measured lines."""
    for index, (label, parts, measured) in enumerate(found):
        x, y = LEFT + index * (BAR + GAP), float(TOP + HEIGHT)
        for part, size in parts.items():
            y -= size * scale
            yield f'<rect x="{x}" y="{y:.1f}" width="{BAR}" height="{size * scale:.1f}" fill="{PARTS[part][1]}"/>'
        line = TOP + HEIGHT - measured * scale
        yield f'<line x1="{x - 4}" y1="{line:.1f}" x2="{x + BAR + 4}" y2="{line:.1f}" stroke="black" stroke-width="2"/>'
        turn = f"translate({x + BAR / 2 + 3:.0f},{TOP + HEIGHT + 6}) rotate(55)"
        yield f'<text transform="{turn}">{escape(label)}</text>'


def picture() -> str:
    """The whole SVG."""
    found = list(stages())
    top = max(max(sum(parts.values()), measured) for _, parts, measured in found)
    scale = HEIGHT / (-(-top // (20 * GIB)) * 20 * GIB)
    width = LEFT + len(found) * (BAR + GAP) + 150
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + BELOW}" '
        f'viewBox="0 0 {width} {TOP + HEIGHT + BELOW}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for tick in range(0, round(HEIGHT / scale / GIB) + 1, 20):
        y = TOP + HEIGHT - tick * GIB * scale
        lines.append(f'<line x1="{LEFT - 6}" y1="{y:.1f}" x2="{width - 140}" y2="{y:.1f}" stroke="#dddddd"/>')
        lines.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{tick} GiB</text>')
    lines += bars(found, scale)
    for index, (name, colour) in enumerate(PARTS.values()):
        lines.append(f'<rect x="{LEFT + index * 92}" y="14" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{LEFT + 17 + index * 92}" y="24">{name}</text>')
    x = LEFT + len(PARTS) * 92
    lines.append(f'<line x1="{x}" y1="20" x2="{x + 18}" y2="20" stroke="black" stroke-width="2"/>')
    lines.append(f'<text x="{x + 23}" y="24">measured peak</text>')
    return "\n".join([*lines, "</svg>"])


if __name__ == "__main__":
    print(picture())

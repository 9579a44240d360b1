"""One colour and one symbol per configuration, the same in all charts of a page and the picture."""

# Okabe and Ito's colours, which colour-blind people can distinguish, then some of Tol's.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#882255", "#332288",
    "#999933", "#555555",
)  # fmt: skip
SYMBOLS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X",
    "star": "*", "pentagon": "p", "hexagon": "h", "triangle-down": "v",
}  # fmt: skip
"""Plotly's name -> Matplotlib's marker."""
BEATEN = "#d4d7dc"  # the colour of configurations that are not on the Pareto front


def look(number: int) -> tuple[str, str]:
    """Return a configuration's colour and symbol; colours repeat with other symbols."""
    shift = number // len(COLORS)
    return COLORS[number % len(COLORS)], list(SYMBOLS)[(number + shift) % len(SYMBOLS)]

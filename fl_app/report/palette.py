"""One colour and one symbol per method, the same in every chart of a page and in the picture."""

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


def look(method: int) -> tuple[str, str]:
    """Return a method's colour and symbol; colours repeat with other symbols."""
    shift = method // len(COLORS)
    return COLORS[method % len(COLORS)], list(SYMBOLS)[(method + shift) % len(SYMBOLS)]

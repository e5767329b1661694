"""What all figures share: the width of a column, and colours that everyone can distinguish."""

import seaborn as sns

COLUMN = 3.25  # inches, a column of the conference's two
PAGE = 6.75  # inches, both columns
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}
COLOURS = sns.color_palette("colorblind")
METHOD_COLOURS = {"euclidean": COLOURS[1], "geodesic": COLOURS[0]}

"""Looking around in a latent space: click two points, see the geodesic, the straight line, and both decoded."""

from latentgeo.explorer.explorer import Explorer, explore
from latentgeo.explorer.selection import Selection

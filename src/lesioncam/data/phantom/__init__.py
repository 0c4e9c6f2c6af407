"""A phantom: real anatomy with planted lesions, so that the demo and the tests need no download and are not trivial.

The anatomy is the MNI152 head that the nilearn package carries (Fonov et al., "Unbiased average age-appropriate atlases
for pediatric studies", NeuroImage 2011); skull and scalp are added. Each patient gets an elastic warp, tissue contrast,
coil shading, scanner gain and noise of its own; two patients in three get one or two lesions:

* ``mass``: a solid lump, brighter than the dark swelling around it (which is no part of the mask);
* ``ring``: a bright rim around a dark core (the mask is the whole lesion, core included);
* ``infiltration``: a faint irregular stain in which the folds of the brain still show.

Sick and healthy patients alike carry things that are no lesion: vessels, calcifications, cysts without a rim, one
ventricle wider than its twin, lumps under the scalp, marker capsules, zipper and streak artefacts, ghosts. They, the
shading and the gain are what defeats a threshold on brightness.

Everything is a function of world coordinates in mm (RAS: x to the patient's right, y forward, z up), so a slice costs
one plane of points, and a volume is a stack of such planes.
"""

from lesioncam.data.phantom.draw import draw_slice, draw_volume
from lesioncam.data.phantom.recipe import Phantom, patient
from lesioncam.data.phantom.write import write_phantom, write_volumes

__all__ = ["Phantom", "draw_slice", "draw_volume", "patient", "write_phantom", "write_volumes"]

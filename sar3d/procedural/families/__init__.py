"""The families of recipes, one per category."""

from sar3d.procedural.families.food import CAKE, MUSHROOM
from sar3d.procedural.families.furniture import CHAIR, LAMP, TABLE
from sar3d.procedural.families.outdoors import HOUSE, TREE
from sar3d.procedural.families.pottery import MUG, VASE
from sar3d.procedural.families.vehicles import BOAT, CAR, ROCKET
from sar3d.procedural.recipe import Family

FAMILIES: tuple[Family, ...] = (CHAIR, CAR, MUG, TREE, ROCKET, CAKE, HOUSE, LAMP, MUSHROOM, BOAT, VASE, TABLE)
"""In the catalogue's order, which is part of every uid: append only, and raise RECIPE_VERSION."""

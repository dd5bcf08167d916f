"""The families of recipes, one for each kind of object."""

from sar3d.procedural.families.buildings import HOUSE, TOWER
from sar3d.procedural.families.creatures import BIRD, DOG, FISH, ROBOT, SNOWMAN
from sar3d.procedural.families.furniture import BED, BOOKSHELF, CHAIR, LAMP, SOFA, TABLE
from sar3d.procedural.families.nature import CACTUS, FLOWER, MUSHROOM, TREE
from sar3d.procedural.families.tableware import BOTTLE, MUG, TEAPOT
from sar3d.procedural.families.things import CAKE, CLOCK, GUITAR, HAT, ICE_CREAM, UMBRELLA
from sar3d.procedural.families.vehicles import BALLOON, BOAT, CAR, PLANE, ROCKET, TRUCK
from sar3d.procedural.recipe import Family

FAMILIES: tuple[Family, ...] = (
    *(CHAIR, CAR, MUG, TREE, ROCKET, CAKE, HOUSE, LAMP, MUSHROOM, BOAT, ROBOT, TEAPOT),
    *(FISH, UMBRELLA, SNOWMAN, TABLE, PLANE, CACTUS, HAT, TRUCK, BIRD, SOFA, TOWER, ICE_CREAM),
    *(GUITAR, BED, DOG, BALLOON, CLOCK, FLOWER, BOOKSHELF, BOTTLE),
)
"""In the world's order, which is part of every uid: raise RECIPE_VERSION with every change."""

"""The size of a GAN's pictures where its recipe leaves it open: as the first usable picture has it, made one that can be made."""

from __future__ import annotations

from artgen.models.gans.registry import multiple_of
from artgen.models.gans.spec import LARGEST_PX, SMALLEST_PX
from artgen.training.gan_recipe import GanRecipe

Size = tuple[int, int]
"""Height and width in pixels."""


def sides(recipe: GanRecipe, first: Size) -> Size:
    """Of all pictures, where the first usable one has these: what the recipe sets; and what it leaves open shrunk, in the
    same measure, to LARGEST_PX at most, each side then at least SMALLEST_PX and cut to a multiple of the architecture's.
    """
    height, width = first
    multiple = multiple_of(recipe.model)
    longest = max(LARGEST_PX, 0 if recipe.height else height, 0 if recipe.width else width)

    def legal(side: int) -> int:
        return max(side * LARGEST_PX // longest, SMALLEST_PX) // multiple * multiple

    return recipe.height or legal(height), recipe.width or legal(width)


def size_rule(recipe: GanRecipe, first: Size, key: str) -> str:
    """What `sides` does to the first picture, called `key`, in words; empty where it keeps all that the recipe leaves open."""
    height, width = sides(recipe, first)
    if (height, width) == (recipe.height or first[0], recipe.width or first[1]):
        return ""
    multiple = multiple_of(recipe.model)
    multiples = f" in multiples of {multiple}" if multiple > 1 else ""
    return (
        f"height and width are not both set: all pictures become {width}x{height} pixels, as {key!r}, the first usable one, "
        f"has {first[1]}x{first[0]}, and {recipe.model} makes {SMALLEST_PX} to {LARGEST_PX} a side{multiples}"
    )

"""Pictures and videos as prompts: reading and resizing them, and the tokens that stand for them."""

from constrained_dg.vision.pictures import Picture
from constrained_dg.vision.prompts import Pictured, Vision
from constrained_dg.vision.video import Video

__all__ = ["Picture", "Pictured", "Video", "Vision"]

"""TODO say what this is"""

from mambavl.extract.encoders.published.orvit import ORViTConfig

SMALL = ORViTConfig(
    width=24,
    depth=3,
    heads=3,
    patch_size=32,
    frames=6,
    image_size=96,
    num_classes=(5, 7),
    orvit_layers=(1,),
    objects=2,
)  # 3 steps of 3 x 3 patches and 2 objects

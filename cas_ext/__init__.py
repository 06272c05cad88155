"""cas_ext: the class-agnostic segmentation (CAS) loss, fused into one pass over the pixels, for CPU and CUDA."""

from importlib.metadata import version

from . import ops, reference
from .functional import RegionMoments, cas_loss, region_moments
from .info import info
from .loss import CASLoss

__version__ = version("cas_ext")
__all__ = ["CASLoss", "RegionMoments", "__version__", "cas_loss", "info", "ops", "reference", "region_moments"]

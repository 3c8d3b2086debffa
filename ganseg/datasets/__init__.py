"""The data sets: one reader per file, one table of them, one cache."""

from ganseg.datasets.base import Pictures
from ganseg.datasets.loading import READERS, check_layout, load_pictures, published, spread, wanted

__all__ = ["READERS", "Pictures", "check_layout", "load_pictures", "published", "spread", "wanted"]

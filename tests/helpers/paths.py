"""Where things are: the checkout, its tests and their data, and the shared facts next to the checkout where
there are any.
"""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DATA = TESTS / "data"
SHARED = ROOT.parent / "shared"  # a stranger's clone has none; tests reach it through the fixture `shared`

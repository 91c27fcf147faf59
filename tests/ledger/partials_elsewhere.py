"""A class that partials are made of, in another module than the kernel."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Elsewhere:
    total: Any

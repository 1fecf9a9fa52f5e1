"""Loading without the chatter of libraries."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run without the libraries' own progress bars, which show one line per component; puts back what was set."""
    libraries = [library for library in (transformers_logging, diffusers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()

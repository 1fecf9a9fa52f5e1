"""Packages that libraries import for few of their classes: each waits until something in it is asked for.

A UNet of diffusers imports all its transformer models, the hooks that offload and cache them, and most of scipy; a
language model of transformers imports scipy's optimizers, for losses of object detection. Drawing needs none of them.
They are made at once and run at the first look into them, as by `importlib.util.LazyLoader`, whose modules would run as
soon as a submodule is imported.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PACKAGES: dict[str, tuple[str, ...]] = {
    "diffusers.hooks": (),
    "diffusers.models.transformers": (),
    "scipy.integrate": (),
    "scipy.optimize": ("linear_sum_assignment",),
    "scipy.stats": (),
}
"""What waits; and its functions that are imported by name long before they are called, if ever."""


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Of `PACKAGES`, what is first imported inside the block waits, also after it, until it is needed."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in PACKAGES:
            return None
        others = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Does the first half of another one's work, and leaves the second to `_Wait`."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        module.__dict__["__getattr__"] = _Wait(module, self._loader)


class _Wait:
    """A module's `__getattr__`, which Python calls for names that the module has not: runs it at the first."""

    def __init__(self, module: ModuleType, loader: importlib.abc.Loader) -> None:
        self._module = module
        self._loader = loader
        self._lock = threading.RLock()
        self._has_begun = False

    def __call__(self, name: str) -> Any:
        if name in PACKAGES[self._module.__name__] and not self._has_begun:
            return functools.partial(self._call, name)
        if name == "__all__" or not name.startswith("__"):  # tools ask every module for names like __wrapped__
            self._run()
            if self._module.__dict__.get("__getattr__") is not self:
                return getattr(self._found(), name)  # if it still is, this very thread is in the midst of running it
        raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}")

    def _run(self) -> None:
        with self._lock:  # another thread may be running it
            if self._has_begun:
                return
            self._has_begun = True
            try:
                self._loader.exec_module(self._module)
            except BaseException:
                self._has_begun = False
                raise
            if self._module.__dict__["__getattr__"] is self:  # it has none of its own
                del self._module.__dict__["__getattr__"]

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        self._run()
        return getattr(self._found(), name)(*args, **options)

    def _found(self) -> ModuleType:
        """The module that has run, or what it has put in its place."""
        return sys.modules.get(self._module.__name__, self._module)

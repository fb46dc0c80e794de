"""Asking for the class of an op or attribute as fast as for that of any other object.

xDSL's ops and attributes are abstract base classes, of which other classes may be registered as virtual subclasses.
`isinstance` then is a call of a Python function several times as slow as for a plain class, and walking programs asks
little else.
"""

from __future__ import annotations

from abc import ABCMeta


class PlainClassCheck(ABCMeta):
    """The metaclass of classes that have no virtual subclasses: `isinstance` goes by inheritance alone."""

    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__

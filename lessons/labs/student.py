"""A student's file: load it, and say in one sentence what is wrong with it."""

from __future__ import annotations

import os
import sys
import traceback
from types import ModuleType
from typing import Any

from lessons.labs.parts import Lab, Unfit


class Trouble(Exception):  # noqa: N818 - it is no error of ours
    """Why a file cannot be used: one sentence."""


def load(path: str, name: str = "lab") -> ModuleType:
    """Run a file and return it as a module; Trouble if that fails.

    Not by import: that would keep a compiled copy beside the file, and take
    it for the file where both were saved within the same second.
    """
    file = os.path.basename(path)
    try:
        with open(path, "rb") as opened:
            source = opened.read()
        code = compile(source, path, "exec", dont_inherit=True)
    except OSError as error:
        raise Trouble(f"{file} cannot be read: {error.strerror}.") from None
    except SyntaxError as error:
        where = f"{file}, line {error.lineno}" if error.lineno else file
        text = f": {error.text.strip()[:40]}" if error.text else "."
        raise Trouble(f"{where}: {error.msg}{text}") from None
    except ValueError:
        raise Trouble(f"{file} is no text: it has bytes of zero.") from None
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses look there
    # Files beside it can be imported: lab4.py builds on lab3.py.
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise Trouble(f"{file} {what_happened(error, path)}") from None
    return module


def part_of(module: ModuleType, lab: Lab) -> Any:
    """Return the function or class that a lab is about; Trouble if none."""
    part = getattr(module, lab.name, None)
    if callable(part):
        return part
    kind = "class" if lab.name[0].isupper() else "function"
    file = os.path.basename(module.__file__ or "")
    raise Trouble(f"{file} has no {kind} with the name {lab.name}.")


def what_happened(error: BaseException, path: str) -> str:
    """Say what a student's code has raised, and where: "raised ... "."""
    if isinstance(error, Unfit):
        return f"returned {error}"
    if isinstance(error, SystemExit):
        words = "called sys.exit(): that would end the room for all"
    elif isinstance(error, EOFError):
        words = (
            "waits for the keyboard, perhaps with input(): a server has none"
        )
    elif isinstance(error, RecursionError):
        words = "calls itself again and again, without an end"
    elif isinstance(error, MemoryError):
        words = "wants more memory than there is"
    elif isinstance(error, ModuleNotFoundError) and is_lab(error.name):
        number = str(error.name)[3:]
        return f"needs {error.name}.py: python -m lessons.lab {number}"
    else:
        text = ascii(str(error)[:100])[1:-1]
        words = f"raised {type(error).__name__}: {text}".rstrip(": ")
    return words + place(error, path)


def is_lab(name: str | None) -> bool:
    """Tell whether a module's name is that of a lab."""
    return name in {f"lab{number}" for number in range(1, 7)}


def place(error: BaseException, path: str) -> str:
    """Return in which line of the student's own files it was raised."""
    folder = os.path.dirname(path)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.dirname(frame.filename) == folder:
            file = os.path.basename(frame.filename)
            where = f"line {frame.lineno}"
            if frame.filename != path:
                where += f" of {file}"
            return f", in {where}: {str(frame.line)[:60]}".rstrip(": ")
    return "."

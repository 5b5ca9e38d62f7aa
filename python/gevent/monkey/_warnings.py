"""Warnings that are collected while patching, and given when it is done."""
import warnings

from gevent.monkey._errors import MonkeyPatchWarning

#: What was warned of while a script is checked, which reports it otherwise; None when warnings are given.
collected: list[str] | None = None


def process(messages: list[str], depth: int = 3) -> None:
    """Give *messages* as warnings of the function's caller's caller, or of one *depth* frames up."""
    if collected is not None:
        collected.extend(messages)
        return
    for message in messages:
        warnings.warn(message, MonkeyPatchWarning, stacklevel=depth)


def queue(message: str, messages: list[str] | None) -> None:
    """Add *message* to *messages*, or give it at once if that is None."""
    if messages is None:
        process([message], 4)
    else:
        messages.append(message)

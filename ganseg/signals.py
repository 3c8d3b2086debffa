"""Ctrl-C and a scheduler's SIGTERM, taken at a moment that suits the work."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def taken(react):
    """Yield a list of the SIGINT and SIGTERM that come inside the block; the first one calls react().

    The second one raises KeyboardInterrupt at once. Only the main thread gets signals; elsewhere the list stays empty.
    """
    came = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def take(number, _):
        if came:
            raise KeyboardInterrupt
        came.append(number)
        react()

    take.before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        there = signal.getsignal(number)
        # A generator that nobody ended may have left its own
        take.before[number] = getattr(there, "before", {number: there})[number]
        signal.signal(number, take)
    try:
        yield came
    finally:
        for number, handler in take.before.items():
            if signal.getsignal(number) is take:
                signal.signal(number, handler)

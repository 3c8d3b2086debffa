"""Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP, taken at a moment that suits the work."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def taken(react):
    """Yield a list of the SIGINT, SIGTERM and SIGHUP that come inside the block; the first one calls react().

    The second one raises KeyboardInterrupt at once, unless it is a SIGHUP, which a shell and the system may both send.
    nohup keeps SIGHUP away. Only the main thread gets signals; elsewhere the list stays empty.
    """
    came = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def take(number, _):
        if not came:
            came.append(number)
            react()
        elif number != signal.SIGHUP:
            raise KeyboardInterrupt

    take.before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        there = signal.getsignal(number)
        if number == signal.SIGHUP and there == signal.SIG_IGN:
            continue
        # A generator that nobody ended may have left its own
        take.before[number] = getattr(there, "before", {number: there})[number]
        signal.signal(number, take)
    try:
        yield came
    finally:
        for number, handler in take.before.items():
            if signal.getsignal(number) is take:
                signal.signal(number, handler)

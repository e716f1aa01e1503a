"""Tests behave alike however they were started."""

from __future__ import annotations

import signal

# what a shell starts in the background ignores Ctrl-C, and so would the processes that tests send it to
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""What all tests in Python share: the programs that they start hear signals, as from a terminal."""

from __future__ import annotations

import signal

# Below nohup or in the background of a shell, some are ignored, and a child would inherit that. A handler is not
# inherited: the child begins with the default, while this process goes on to ignore what it was told to ignore.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

"""How fast the machine is at the moment: what a figure was taken beside.

Virtual machines share processors: the same loop can take five times as long an hour later. The yardstick is
a loop of 10^7 additions; 0.4 s of processor time on an idle core at 2.5 GHz.
"""

import os
import time


def yardstick() -> str:
    """Tell processor time of 10^7 additions in Python, and the load."""
    clock, total = time.process_time(), 0
    for number in range(10**7):
        total += number
    seconds = time.process_time() - clock
    return f"yardstick: 10^7 additions take {seconds:.2f} s of processor time; load {os.getloadavg()[0]:.1f}"

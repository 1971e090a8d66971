"""rtlaunch beside Ray: the programs (`bin/`, with what they load in `lib/`), the class that switches a
node over (`rtlaunch.ray.Plugin`) and the command `rtlaunch`."""

import os
import pathlib

__version__ = '0.1.0'


def programs():
    """The folder of rtlaunch's programs: RTLAUNCH_BIN, or the wheel's own."""
    return pathlib.Path(os.environ.get('RTLAUNCH_BIN') or pathlib.Path(__file__).parent / 'bin')

// The script that tells us what an interpreter is, as one line of JSON on its stdout. Run as
// `python -I -B -c SCRIPT`: it imports the standard library only. Works on Python 3.8 to 3.13 and
// says its version on every other.
#pragma once

namespace rtlaunch::installers {
extern const char kProbeScript[];
}  // namespace rtlaunch::installers

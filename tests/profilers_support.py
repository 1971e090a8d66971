"""Stand-ins for nsys and rocprof-sys-python, which need hardware to be of use."""

# Like the real ones, they start Python as their child.
NSYS = '''#!/bin/bash
[ "$1" = profile ] || { echo "no such command: $1" >&2; exit 2; }
shift
while [ $# -gt 0 ]; do
  case "$1" in
    --wrong=*) echo "unrecognised option $1" >&2; exit 1;;
    -o) output=$2; shift 2;;
    -*=*) shift;;
    -?) shift 2;;
    *) break;;
  esac
done
PROFILED=nsys "$@"
status=$?
echo done > "${output//%p/$$}.nsys-rep"
exit $status
'''
ROCPROF = '''#!/bin/bash
while [ "$1" != -- ]; do [ "$1" = -Z ] && { echo "what is $1" >&2; exit 1; }; shift; done
shift
PROFILED="rocprof $ROCPROFSYS_OUTPUT_PATH $ROCPROFSYS_OUTPUT_PREFIX" python "$@"
'''


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def profilers(folder):
    program(folder / 'nsys', NSYS)
    program(folder / 'rocprof-sys-python', ROCPROF)

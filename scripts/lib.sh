# shellcheck shell=bash
# Sourced by scripts/run, scripts/test and .ci/run: finds a Python and keeps .venv as pyproject.toml
# and constraints.txt want it. Never changes the caller's working directory; speaks on stderr only.

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/.mirrortap-stamp # "<key> <extras, or ->", written after an install that went well

say() { printf '%s\n' "$*" >&2; }

# Runs a command quietly; what it printed is shown only when it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ "$status" = 0 ] || { cat "$log" && printf '%s\n' "failed ($status): $*"; } >&2
    rm -f "$log"
    return "$status"
}

# Prints three lines: the version, the interpreter itself (no shim, no venv, no link), and why it
# will not do (empty when it will). Has to run on any Python, however old.
probe='
import os, sys, sysconfig
why = "" if sys.version_info >= (3, 12) else "too old"
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    why = why or "free-threaded, for which packages are missing"
try:
    import venv, ensurepip
    ensurepip.version()
except Exception as error:
    why = why or "venv and ensurepip are not both there (%s)" % error
print("%d.%d.%d" % sys.version_info[:3])
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
print(why)
'
python='' python_version='' rejected=''

# True, with $python and $python_version set, when the interpreter $1 will do.
try_python() {
    local path=$1 out version real why
    case $path in /*) ;; *) path=$PWD/$path ;; esac
    # A pyenv shim is on PATH also for versions that are not installed, so only running it tells; it
    # obeys the .python-version of the working directory, so that is the checkout.
    if ! out=$(cd "$root" && "$path" -E -s -c "$probe" 2>/dev/null </dev/null); then
        rejected+="  $path: does not run"$'\n'
        return 1
    fi
    { read -r version && read -r real && read -r why; } <<<"$out" || :
    if [ -n "$why" ]; then
        rejected+="  $path: Python $version, $why"$'\n'
        return 1
    fi
    python=$real python_version=$version
}

candidates() {
    local name
    for name in python3.13 python3.12 python3.14 python3.15 python3.16 python3; do
        type -aP "$name" || : # all of them: a shim that fails may hide one that runs
    done
    for name in 3.13 3.12 3.14 3.15 3.16; do
        printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$name".*/bin/python | sort -rV
    done
    if type -P uv >/dev/null; then
        for name in 3.13 '>=3.12'; do
            (cd "$root" && uv python find "$name" 2>/dev/null) || :
        done
    fi
}

# Sets $python and $python_version, or ends the script with 2.
find_python() {
    local path seen=' '
    rejected=''
    if [ -n "${MIRRORTAP_PYTHON:-}" ]; then
        if ! path=$(type -P "$MIRRORTAP_PYTHON"); then
            say "MIRRORTAP_PYTHON=$MIRRORTAP_PYTHON: no such program"
            exit 2
        fi
        try_python "$path" && return
        say "MIRRORTAP_PYTHON will not do (Python 3.12 or later is needed):"$'\n'"${rejected%$'\n'}"
        exit 2
    fi
    while IFS= read -r path; do
        [ -x "$path" ] || continue # a pattern that matched nothing
        case $seen in *" $path "*) continue ;; esac
        seen+="$path "
        try_python "$path" && return
    done < <(candidates)
    say "mirrortap needs Python 3.12 or later, with venv and ensurepip. Found:"
    say "${rejected:-"  no Python at all"$'\n'}Ways to get one, then start again:
  uv python install 3.13
  pyenv install 3.13
  the distribution's packages (Debian, Ubuntu: python3.13 and python3.13-venv, or 3.12)
Or name one that is somewhere else: MIRRORTAP_PYTHON=/path/to/python3.13"
    exit 2
}

# What .venv was made from. The path is in it because scripts in .venv name their interpreter by it.
key() {
    {
        printf '%s\n' "$root"
        "$venv/bin/python" -V 2>&1 || :
        cat "$root/pyproject.toml" "$root/constraints.txt"
    } | sha256sum | cut -d ' ' -f 1
}

# True when MIRRORTAP_PYTHON is not set or is what .venv was made with.
python_as_asked() {
    [ -n "${MIRRORTAP_PYTHON:-}" ] || return 0
    find_python
    local asked=$python
    try_python "$venv/bin/python" && [ "$python" = "$asked" ]
}

# True when .venv has the extras $1; the dev extra is more than none, so run is content with it.
venv_ready() {
    [ -x "$venv/bin/mirrortap" ] && [ -x "$venv/bin/python" ] && [ -f "$stamp" ] || return 1
    local want have
    want=$(key)
    have=$(<"$stamp")
    [ "$have" = "$want dev" ] || { [ -z "$1" ] && [ "$have" = "$want -" ]; } || return 1
    python_as_asked
}

# True when .venv is worth installing into: it runs, has pip, and was not moved or copied here.
venv_usable() {
    [ -x "$venv/bin/python" ] && try_python "$venv/bin/python" &&
        grep -qF "$venv/bin/" "$venv/bin/pip" 2>/dev/null &&
        quietly "$venv/bin/python" -m pip --version 2>/dev/null && python_as_asked
}

update_venv() {
    local extras=$1
    # Once dev, always dev: otherwise run would leave the tools of test at old versions.
    [[ ! -f $stamp || $(<"$stamp") != *' dev' ]] || extras=dev
    if venv_usable; then
        say "Updating .venv (Python $python_version)..."
    else
        find_python
        say "Preparing .venv with Python $python_version (once, about a minute)..."
        # Not --clear, which would remove the lock that others wait for.
        find "$venv/" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
        quietly "$python" -m venv "$venv" || exit 1
    fi
    rm -f "$stamp"
    cd "$root" || exit # in the subshell that holds the lock
    quietly "$venv/bin/python" -m pip --disable-pip-version-check --no-input \
        install -c constraints.txt -e ".${extras:+[$extras]}" || exit 1
    printf '%s\n' "$(key) ${extras:--}" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# Makes .venv ready with the extras $1 ("" or dev).
prepare_venv() {
    local extras=$1
    venv_ready "$extras" && return
    [ -x "$venv/bin/python" ] || find_python # first of all: without one, leave no empty .venv
    mkdir -p "$venv"
    (
        if type -P flock >/dev/null && ! flock -n 9; then
            say "Waiting for another start, which is preparing .venv..."
            flock 9
        fi
        venv_ready "$extras" || update_venv "$extras" 9>&-
    ) 9>"$venv/.lock"
}

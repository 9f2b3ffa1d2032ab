# shellcheck shell=bash
# The environment of a checkout: .venv and Debian's packages. Sourced with `root` set to the checkout.
#
# Two groups: `run` is what umldisk itself uses, `test` adds the tools and the real peers of the tests.
# A stamp in .venv for each group holds all that the group was installed from. The environment is
# current while the stamp says what it would say now; comparing costs no process.

venv=$root/.venv
build_packages=(busybox-static e2fsprogs)
run_packages=("${build_packages[@]}" bubblewrap user-mode-linux)
test_packages=(
    "${run_packages[@]}"
    acl
    borgbackup
    btrfs-progs
    bzip2
    casync
    cpio
    debian-archive-keyring
    libarchive-tools
    libcap2-bin
    mmdebstrap
    mount
    openssh-client
    qemu-utils
    restic
    strace
    systemd
    uidmap
    uml-utilities
    util-linux
    xfsprogs
    xz-utils
    zip
    zstd
)
readonly exit_unavailable=69  # EX_UNAVAILABLE of sysexits.h

say() { printf 'umldisk: %s\n' "$*" >&2; }

# stamp_text GROUP: sets `stamp`. The checkout's path is in it, because an environment cannot be moved.
stamp_text() {
    local project packages="${1}_packages[*]"
    IFS= read -r -d '' project <"$root/pyproject.toml"
    stamp="$root"$'\n'"${!packages}"$'\n'"$project"
}

environment_is_current() {
    local found stamp
    [[ -x $venv/bin/python && -r $venv/$1.stamp ]] || return
    IFS= read -r -d '' found <"$venv/$1.stamp"
    stamp_text "$1"
    [[ $found == "$stamp" ]]
}

# set_up GROUP: brings the environment up to date; others that try at the same time wait here.
set_up() {
    local lock status=0
    exec {lock}<"$root/pyproject.toml" || return
    if ! flock --nonblock "$lock"; then
        say 'waiting for another process, which is setting up .venv'
        flock "$lock" || return
    fi
    environment_is_current "$1" || set_up_locked "$1" || status=$?
    exec {lock}<&-
    return "$status"
}

set_up_locked() {
    local packages="${1}_packages[@]"
    install_packages "${!packages}" || say 'going on without them'
    make_environment && install_project "$1" || return
    write_stamp run || return
    [[ $1 == run ]] || write_stamp "$1"
}

write_stamp() {
    local stamp
    stamp_text "$1"
    printf '%s' "$stamp" >"$venv/$1.stamp.new" && mv -- "$venv/$1.stamp.new" "$venv/$1.stamp"
}

# make_environment: leaves a working .venv. One that this script did not make is used, never cleared.
make_environment() {
    local owner='' python
    [[ -r $venv/checkout ]] && IFS= read -r -d '' owner <"$venv/checkout"
    if [[ -z $owner && -e $venv ]] || [[ $owner == "$root" ]]; then
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    fi
    if [[ -z $owner && -e $venv ]]; then
        say "$venv is no working Python environment: move it away"
        return "$exit_unavailable"
    fi
    if ! find_python && ! { install_packages python3 python3-venv && find_python; }; then
        say 'needs Python 3.11 or newer with its venv module'
        return "$exit_unavailable"
    fi
    say "making $venv"
    mkdir -p -- "$venv" && printf '%s' "$root" >"$venv/checkout" || return
    find "$venv" -mindepth 1 -maxdepth 1 ! -name checkout -exec rm -rf -- {} +
    "$python" -m venv "$venv" >&2 </dev/null
}

# find_python: sets `python` to one that is new enough and can make environments.
find_python() {
    for python in python3 python3.{14..11} /usr/bin/python3; do
        "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1 </dev/null && return
    done
    return 1
}

install_project() {
    local extras=''
    [[ $1 == test ]] && extras='[test]'
    say "installing umldisk$extras from $root"
    (cd -- "$root" && "$venv/bin/python" -m pip install -qq --no-input \
        --disable-pip-version-check --editable ".$extras" >&2 </dev/null)
}

# missing_packages PACKAGE...: sets `missing`; empty where there is no dpkg to ask.
missing_packages() {
    local package installed
    missing=()
    command -v dpkg-query >/dev/null || return 0
    installed=$(dpkg-query --show --showformat='${Package}=${db:Status-Status}\n' "$@" 2>/dev/null)
    for package in "$@"; do
        [[ $'\n'$installed$'\n' == *$'\n'"$package=installed"$'\n'* ]] || missing+=("$package")
    done
}

# install_packages PACKAGE...: fails, having said what is missing, unless all are there afterwards.
install_packages() {
    local missing
    missing_packages "$@"
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        say "missing packages; as root: apt-get install --no-install-recommends ${missing[*]}"
        return "$exit_unavailable"
    fi
    say "installing ${missing[*]}"
    # Lists may be missing (a fresh image) or too old to name files that still exist.
    # A source that fails to update, perhaps one of no interest here, is no reason not to try.
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt_get update
    apt_get install --no-install-recommends "${missing[@]}" && return
    apt_get update
    apt_get install --no-install-recommends "${missing[@]}" && return
    say "could not install ${missing[*]}"
    return "$exit_unavailable"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get --assume-yes -qq \
        --option Dpkg::Use-Pty=0 --option DPkg::Lock::Timeout=300 "$@" >&2 </dev/null
}

# require_build_packages: a missing kernel is only said, since a guest can boot one from elsewhere.
require_build_packages() {
    local missing
    install_packages "${run_packages[@]}" && return
    missing_packages "${build_packages[@]}"
    ((${#missing[@]} == 0)) || return "$exit_unavailable"
}

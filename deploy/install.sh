#!/bin/sh
# Installs this version of Keyfront on a machine with systemd, beside the versions that are there:
#
#     sh deploy/install.sh control    # the control plane, and an edge
#     sh deploy/install.sh edge       # an edge that follows a control plane elsewhere
#
# It may run any number of times. What it makes:
#
#     /opt/keyfront/VERSION           a virtual environment; `current` links to the one in use
#     /etc/keyfront                   configuration; files that are there stay as they are
#     /etc/systemd/system             the units, for this role
#     /usr/local/bin/keyfront         the commands, as the services' user
#     /var/lib/keyfront               the data folder; on an edge, /var/lib/keyfront-edge
#
# Options: --root DIR (install below DIR; starts and enables nothing), --python PROGRAM (3.11 or later),
# --wheels DIR (a folder with all packages, for a machine without access to a package registry).
set -eu
umask 022

fail() {
    echo "install.sh: $*" >&2
    exit 2
}

root='' python=python3 wheels='' role=''
while [ $# -gt 0 ]; do
    case $1 in
        --root | --python | --wheels) [ $# -gt 1 ] || fail "$1 needs a value" ;;
    esac
    case $1 in
        --root) root=$2 && shift ;;
        --python) python=$2 && shift ;;
        --wheels) wheels=$2 && shift ;;
        control | edge) [ -z "$role" ] || fail "one role, please"; role=$1 ;;
        *) fail "there is no option or role $1: the roles are control and edge" ;;
    esac
    shift
done
[ -n "$role" ] || fail "name a role: control or edge"

source=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml")
# Two builds of one version are two installations, so that one can go back from the other.
build=$(cd "$source" && git rev-parse --short HEAD 2>/dev/null || true)
release=/opt/keyfront/$version${build:+-$build}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is not Python 3.11 or later"
if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || fail "run this as root"
    command -v systemctl >/dev/null || fail "this machine has no systemd"
fi

# -- the program: made under another name, so that an interrupted run leaves nothing that looks complete

if [ ! -e "$root$release" ]; then
    new=$root$release.new
    rm -rf "$new"
    mkdir -p "$root/opt/keyfront"
    "$python" -m venv "$new"
    pip() {
        if [ -n "$wheels" ]; then
            "$new/bin/python" -m pip install --quiet --no-index --find-links "$wheels" "$@"
        else
            "$new/bin/python" -m pip install --quiet "$@"
        fi
    }
    pip --require-hashes -r "$source/requirements/build.txt" -r "$source/requirements/runtime.txt"
    # A copy, because the build writes into its folder.
    mkdir "$new/build"
    cp -R "$source/src" "$source/pyproject.toml" "$source/README.md" "$source/LICENSE" "$new/build"
    pip --no-deps --no-build-isolation "$new/build"
    rm -rf "$new/build"
    # Scripts name the interpreter by its path.
    for script in "$new"/bin/*; do
        if [ -f "$script" ] && [ ! -L "$script" ]; then
            sed -i "s|$new|$release|g" "$script"
        fi
    done
    chmod -R go+rX "$new"
    mv "$new" "$root$release"
fi
ln -sfn "${release##*/}" "$root/opt/keyfront/current"

# -- the user, the configuration, the units

install -D -m 0644 "$source/deploy/systemd/keyfront.sysusers.conf" "$root/etc/sysusers.d/keyfront.conf"
[ -n "$root" ] || systemd-sysusers keyfront.conf
install -D -m 0755 "$source/deploy/bin/keyfront" "$root/usr/local/bin/keyfront"
install -d -m 0755 "$root/etc/keyfront"
config() {
    [ -e "$root/etc/keyfront/$1" ] || install -m 0644 "$source/deploy/config/$1" "$root/etc/keyfront/$1"
}
if [ "$role" = control ]; then
    config keyfront.toml
    units='keyfront.service keyfront.socket keyfront-agent.service keyfront-backup.service keyfront-backup.timer'
    main=keyfront.service
    data='/var/lib/keyfront /var/lib/keyfront-backups'
else
    config edge.toml
    units='keyfront-edge.service keyfront-edge.socket'
    main=keyfront-edge.service
    data=/var/lib/keyfront-edge
fi
for unit in $units; do
    install -D -m 0644 "$source/deploy/systemd/$unit" "$root/etc/systemd/system/$unit"
done
install -D -m 0644 "$source/deploy/config/logrotate.conf" "$root/etc/logrotate.d/keyfront"
if [ -z "$root" ]; then
    # Some commands come before the first start.
    for each in $data; do
        install -d -o keyfront -g keyfront -m 0700 "$each"
    done
    systemctl daemon-reload
    systemctl enable "$main"
fi
echo "Keyfront $version${build:+ ($build)} is installed; start it with: systemctl restart $main"

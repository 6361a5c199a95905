#!/bin/sh
# Installs Rill from the folder that holds this script. Asks nothing; may be run again.
#
#   sudo ./install.sh          installs on this machine and starts the service
#   ./install.sh ROOT          installs into the file system below ROOT and starts nothing
set -eu
umask 022

root=${1:-}
if [ $# -gt 0 ]; then
    [ $# = 1 ] && [ -n "$root" ] || {
        echo "error: name one folder to install below, or nothing to install on this machine" >&2
        exit 1
    }
    # From where the user stands.
    root=$(CDPATH='' cd -- "$root" && pwd) || {
        echo "error: no folder $1" >&2
        exit 1
    }
fi
# A link to this script may stand anywhere.
here=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")" && pwd)
cd "$here"

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "error: run as root: sudo $0" >&2
    exit 1
fi
sha256sum --check --quiet --strict SHA256SUMS || {
    echo "error: this copy is damaged: copy it again" >&2
    exit 1
}

# The sum that SHA256SUMS says of a file.
sum() {
    sed -n "s|^\\([0-9a-f]\\{64\\}\\)  $1\$|\\1|p" SHA256SUMS
}
for file in model.rill bin/rill README.txt rill.conf rill.service \
    rill-serve.conf rill-serve.service rill-serve.socket; do
    [ -n "$(sum $file)" ] || {
        echo "error: SHA256SUMS does not name $file: copy the bundle again" >&2
        exit 1
    }
done

# Copies a file that SHA256SUMS names, so that its place has the old or the new one whole, whatever
# happens.
put() {
    mkdir -p "$(dirname "$root$2")"
    [ ! -d "$root$2" ] || {
        echo "error: $root$2 is a folder: move it away" >&2
        exit 1
    }
    rm -f "$root$2.new"
    cp "$1" "$root$2.new" || {
        rm -f "$root$2.new"
        exit 1
    }
    # What was copied is what was checked, or nothing is installed.
    [ "$(sha256sum <"$root$2.new")" = "$(sum "$1")  -" ] || {
        rm -f "$root$2.new"
        echo "error: this copy changes while it is installed: $1" >&2
        exit 1
    }
    chmod "$3" "$root$2.new"
    sync "$root$2.new"
    mv "$root$2.new" "$root$2"
}

put model.rill /opt/rill/model.rill 644
put bin/rill /opt/rill/bin/rill 755
put README.txt /opt/rill/README.txt 644
# What else lies there is nobody's.
sed -n 's|^[0-9a-f]\{64\}  \(licences/[A-Za-z0-9._-]*\)$|\1|p' SHA256SUMS | while read -r file; do
    put "$file" "/opt/rill/$file" 644
done
# What the user changed stays.
for file in rill.conf rill-serve.conf; do
    [ -e "$root/etc/rill/$file" ] || put "$file" "/etc/rill/$file" 644
done
for file in rill.service rill-serve.service rill-serve.socket; do
    put "$file" "/etc/systemd/system/$file" 644
done

if [ -n "$root" ]; then
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf ../rill.service "$root/etc/systemd/system/multi-user.target.wants/rill.service"
    echo "installed below $root"
elif [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if systemctl is-enabled --quiet rill-serve.socket; then
        # The user chose the server: it has the new version with the next request.
        systemctl try-restart rill-serve.service
        echo "installed: programs reach it as before"
    else
        systemctl enable --quiet rill.service
        systemctl restart rill.service
        echo "installed and running: Ctrl-Alt-F8 shows it"
    fi
else
    echo "installed; this system has no systemd: start /opt/rill/bin/rill chat -m /opt/rill/model.rill"
fi
